//! vSphere.
#![allow(dead_code)]
mod counters;
mod totals;
