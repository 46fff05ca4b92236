//! The driver for XenServer and XCP-ng.
#![allow(dead_code)]

mod inventory;
mod json;
mod objects;
mod rpc;
mod tables;
