//! The cluster's drivers.
pub mod election;
pub mod reconcile;
