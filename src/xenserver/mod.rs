//! The driver for XenServer and XCP-ng.
#![allow(dead_code)]

mod json;
mod rpc;
