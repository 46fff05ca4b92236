//! The driver of vSphere: a vCenter Server or a single ESXi host, by its SOAP API (docs/vsphere.md).
#![allow(dead_code)]

mod counters;
mod devices;
mod faults;
#[cfg(test)]
mod fixtures;
mod nova;
mod objects;
mod requests;
mod soap;
mod time;
mod totals;
