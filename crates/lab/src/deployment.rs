//! Servers behind a service, replaced the way Kubernetes does it in a rolling update.

use std::{
    ops::ControlFlow,
    process::{Command, ExitStatus},
    time::Duration,
};

use crate::{
    Child, Error,
    manifests::{Condition, Endpoint, Manifests, Service},
    topology::{Backend, NODE_NAME, Standard},
};

/// The file that has the EndpointSlices.
pub const ENDPOINTS_FILE: &str = "endpoints.yaml";
/// The file that has the Service.
pub const SERVICE_FILE: &str = "service.yaml";

/// How long a server may take to print `ready`.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a server may take to drain after SIGTERM; Kubernetes' own default grace period.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a replacement stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The new server is started at its own, new address.
    Starting {
        /// The new server's name.
        new: String,
    },
    /// The new server is an endpoint that is ready.
    Added {
        /// The new server's name.
        new: String,
    },
    /// The old endpoint is marked terminating; its server goes on serving. The observer lets the grace period pass here,
    /// so that what is in flight finishes (the `preStop` pause of a well-behaved pod).
    Draining {
        /// The old server's name.
        old: String,
    },
    /// The old server gets SIGTERM and drains.
    Stopping {
        /// The old server's name.
        old: String,
    },
    /// The old endpoint and its address are gone.
    Removed {
        /// The old server's name.
        old: String,
        /// How its server ended.
        status: ExitStatus,
    },
}

/// How a replacement ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    /// All steps were done.
    Done {
        /// The new server's name.
        new: String,
        /// How the old server ended.
        status: ExitStatus,
    },
    /// The observer broke it off.
    BrokenOff,
}

/// The servers of a service, each in a backend of a [`Standard`] lab, and their EndpointSlices.
pub struct Deployment {
    service: Service,
    manifests: Manifests,
    server: Box<dyn Fn(&Backend) -> Command + Send>,
    /// The node that the endpoints are said to be on.
    node: String,
    replicas: Vec<Replica>,
}

struct Replica {
    backend: Backend,
    server: Child,
    /// `None`: it has no endpoint.
    condition: Option<Condition>,
}

impl Deployment {
    /// Starts `count` servers in new backends, waits until each has printed `ready`, and writes Service and EndpointSlice.
    ///
    /// # Errors
    /// What building the backends, starting the servers or writing the manifests met with.
    pub fn start(
        lab: &mut Standard,
        manifests: Manifests,
        service: Service,
        server: impl Fn(&Backend) -> Command + Send + 'static,
        count: usize,
    ) -> Result<Self, Error> {
        let node = NODE_NAME.to_owned();
        let mut deployment = Self { service, manifests, server: Box::new(server), node, replicas: Vec::new() };
        for _ in 0..count {
            deployment.start_server(lab)?;
        }
        for replica in &mut deployment.replicas {
            replica.server.wait_for_line("ready", START_TIMEOUT)?;
            replica.condition = Some(Condition::Ready);
        }
        deployment.manifests.write(SERVICE_FILE, &deployment.service.manifest())?;
        deployment.publish()?;
        Ok(deployment)
    }

    /// The servers that exist, oldest first.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.replicas.iter().map(|replica| &replica.backend)
    }

    /// The process of a server, to signal or kill it.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`].
    pub fn server(&self, name: &str) -> Result<&Child, Error> {
        Ok(&self.replicas[self.index(name)?].server)
    }

    /// Starts another server, waits until it is ready, and adds it to the EndpointSlice.
    ///
    /// # Errors
    /// What building the backend, starting the server or writing the manifest met with.
    pub fn add(&mut self, lab: &mut Standard) -> Result<Backend, Error> {
        let backend = self.start_server(lab)?;
        self.server(&backend.name)?.wait_for_line("ready", START_TIMEOUT)?;
        self.set_condition(&backend.name, Condition::Ready)?;
        Ok(backend)
    }

    /// Changes what the EndpointSlice says of a server.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`], or what writing the manifest met with.
    pub fn set_condition(&mut self, name: &str, condition: Condition) -> Result<(), Error> {
        let index = self.index(name)?;
        self.replicas[index].condition = Some(condition);
        self.publish()
    }

    /// Says that the servers are on this node instead of the lab's own, where they stay: so a node takes them for another's.
    ///
    /// # Errors
    /// What writing the manifest met with.
    pub fn place_on(&mut self, node: &str) -> Result<(), Error> {
        node.clone_into(&mut self.node);
        self.publish()
    }

    /// Removes a server's endpoint; the server itself goes on.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`], or what writing the manifest met with.
    pub fn withdraw(&mut self, name: &str) -> Result<(), Error> {
        let index = self.index(name)?;
        self.replicas[index].condition = None;
        self.publish()
    }

    /// Ends a server with SIGTERM, if it still runs, then removes its endpoint and its backend.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`], [`Error::StillRunning`], or what removing met with.
    pub fn remove(&mut self, lab: &mut Standard, name: &str) -> Result<ExitStatus, Error> {
        let index = self.index(name)?;
        let status = self.replicas[index].server.terminate(STOP_TIMEOUT)?;
        self.replicas.remove(index);
        self.publish()?;
        lab.remove_backend(name)?;
        Ok(status)
    }

    /// Replaces one server as a rolling update with one surge pod does. The observer hears of each step once it is
    /// reached, and can break off there.
    ///
    /// # Errors
    /// What any of the steps met with.
    pub fn replace(
        &mut self,
        lab: &mut Standard,
        name: &str,
        mut observer: impl FnMut(Step) -> ControlFlow<()>,
    ) -> Result<Replaced, Error> {
        let old = name.to_owned();
        let backend = self.start_server(lab)?;
        let new = backend.name;
        if observer(Step::Starting { new: new.clone() }).is_break() {
            return Ok(Replaced::BrokenOff);
        }
        self.server(&new)?.wait_for_line("ready", START_TIMEOUT)?;
        self.set_condition(&new, Condition::Ready)?;
        if observer(Step::Added { new: new.clone() }).is_break() {
            return Ok(Replaced::BrokenOff);
        }
        self.set_condition(&old, Condition::Terminating)?;
        if observer(Step::Draining { old: old.clone() }).is_break() {
            return Ok(Replaced::BrokenOff);
        }
        if observer(Step::Stopping { old: old.clone() }).is_break() {
            return Ok(Replaced::BrokenOff);
        }
        let status = self.remove(lab, &old)?;
        if observer(Step::Removed { old, status }).is_break() {
            return Ok(Replaced::BrokenOff);
        }
        Ok(Replaced::Done { new, status })
    }

    /// Starts a server that is not an endpoint yet.
    fn start_server(&mut self, lab: &mut Standard) -> Result<Backend, Error> {
        let backend = lab.add_backend()?;
        let server = backend.namespace.spawn((self.server)(&backend))?;
        self.replicas.push(Replica { backend: backend.clone(), server, condition: Some(Condition::NotReady) });
        Ok(backend)
    }

    fn publish(&self) -> Result<(), Error> {
        let endpoints: Vec<Endpoint> = self
            .replicas
            .iter()
            .filter_map(|replica| {
                Some(Endpoint {
                    name: replica.backend.name.clone(),
                    addresses: replica.backend.addresses().into(),
                    node: self.node.clone(),
                    condition: replica.condition?,
                })
            })
            .collect();
        self.manifests.write(ENDPOINTS_FILE, &self.service.endpoint_slices(&endpoints))
    }

    fn index(&self, name: &str) -> Result<usize, Error> {
        self.replicas
            .iter()
            .position(|replica| replica.backend.name == name)
            .ok_or_else(|| Error::UnknownBackend { name: name.to_owned() })
    }
}
