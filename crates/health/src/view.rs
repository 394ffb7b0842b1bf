//! What the health of backends means for each frontend.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use evenkeel_plan::frontends::FrontendKey;

use crate::backend::State;
use crate::outcome::Failure;
use crate::ramp::FULL;

/// The health of every checked backend, by frontend. What is not in it counts as healthy.
///
/// In every frontend somebody that takes new flows has the full share, as [`crate::relieve`] sees to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    pub(crate) frontends: BTreeMap<FrontendKey, BTreeMap<SocketAddr, BackendHealth>>,
}

/// The health of a backend of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendHealth {
    /// How much it takes of the new flows that fall to it: 0 none, 255 all.
    pub share: u8,
    /// Its state.
    pub state: State,
    /// It is down and has a share all the same, because everybody else is down too.
    pub is_last_resort: bool,
    /// It is down because of what clients met with, confirmed by one check.
    pub is_ejected: bool,
    /// Why it is down, or why the last check failed.
    pub failure: Option<Arc<Failure>>,
    /// Why it could not be checked, which is this host's trouble and not the backend's; its state is what it was.
    pub not_checked: Option<String>,
}

impl View {
    /// The health of a backend, if it is checked.
    pub fn get(&self, frontend: &FrontendKey, backend: SocketAddr) -> Option<&BackendHealth> {
        self.frontends.get(frontend)?.get(&backend)
    }

    /// The share of new flows a backend takes, 0 to 255.
    pub fn share(&self, frontend: &FrontendKey, backend: SocketAddr) -> u8 {
        self.get(frontend, backend).map_or(FULL, |health| health.share)
    }

    /// The checked backends of a frontend.
    pub fn of(&self, frontend: &FrontendKey) -> Option<&BTreeMap<SocketAddr, BackendHealth>> {
        self.frontends.get(frontend)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&FrontendKey, SocketAddr, &BackendHealth)> {
        self.frontends
            .iter()
            .flat_map(|(frontend, backends)| backends.iter().map(move |(address, health)| (frontend, *address, health)))
    }
}

impl FromIterator<(FrontendKey, SocketAddr, BackendHealth)> for View {
    fn from_iter<T: IntoIterator<Item = (FrontendKey, SocketAddr, BackendHealth)>>(all: T) -> Self {
        let mut view = Self::default();
        for (frontend, address, health) in all {
            view.frontends.entry(frontend).or_default().insert(address, health);
        }
        view
    }
}
