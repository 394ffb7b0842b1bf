//! Kubernetes manifests in a directory: all that the load balancer under test sees of a lab.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use crate::Error;

/// A directory of manifests whose files change in one piece: a reader never sees half a document.
#[derive(Debug, Clone)]
pub struct Manifests {
    directory: PathBuf,
    staging: PathBuf,
}

impl Manifests {
    /// Creates `manifests` below `parent`, and `staging` beside it, where files are written before they are renamed into
    /// place.
    ///
    /// # Errors
    /// [`Error::Io`] if the directories cannot be made.
    pub fn create(parent: &Path) -> Result<Self, Error> {
        let made = Self { directory: parent.join("manifests"), staging: parent.join("staging") };
        for path in [&made.directory, &made.staging] {
            fs::create_dir_all(path).map_err(Error::io(format!("create {}", path.display())))?;
        }
        Ok(made)
    }

    /// The directory to point the load balancer at.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes or replaces a file.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written or renamed; the directory is then unchanged.
    pub fn write(&self, file_name: &str, content: &str) -> Result<(), Error> {
        let staged = self.staging.join(file_name);
        let target = self.directory.join(file_name);
        fs::write(&staged, content).map_err(Error::io(format!("write {}", staged.display())))?;
        fs::rename(&staged, &target).map_err(Error::io(format!("rename to {}", target.display())))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// [`Error::Io`] if it does not exist or cannot be removed.
    pub fn remove(&self, file_name: &str) -> Result<(), Error> {
        let target = self.directory.join(file_name);
        fs::remove_file(&target).map_err(Error::io(format!("remove {}", target.display())))
    }
}

/// A transport protocol of a service port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// One port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Its name, which joins Service and EndpointSlice.
    pub name: &'static str,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port at the VIP.
    pub port: u16,
    /// The port at the backends.
    pub target_port: u16,
}

/// A Service of type LoadBalancer in the namespace `default`.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// The VIP it asks for; without one it takes what the pool gives.
    pub address: Option<Ipv4Addr>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// The value of the annotation `evenkeel.io/forwarding`, such as `direct`.
    pub forwarding: Option<String>,
}

/// What Kubernetes says of an endpoint, by the life of its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Takes new connections.
    Ready,
    /// Its pod is being deleted and still answers.
    Terminating,
    /// Its pod runs and does not answer.
    NotReady,
}

impl Condition {
    fn yaml(self) -> &'static str {
        match self {
            Self::Ready => "{ready: true, serving: true, terminating: false}",
            Self::Terminating => "{ready: false, serving: true, terminating: true}",
            Self::NotReady => "{ready: false, serving: false, terminating: false}",
        }
    }
}

/// One endpoint of an EndpointSlice.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The pod's name.
    pub name: String,
    /// The pod's address.
    pub address: Ipv4Addr,
    /// The node the pod runs on.
    pub node: String,
    /// What Kubernetes says of it.
    pub condition: Condition,
}

/// An IPAddressPool over the addresses from `first` to `last`, and an L2Advertisement of it.
#[must_use]
pub fn pool(name: &str, first: Ipv4Addr, last: Ipv4Addr) -> String {
    format!(
        "\
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata:
  name: {name}
  namespace: metallb-system
spec:
  addresses:
  - {first}-{last}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata:
  name: {name}
  namespace: metallb-system
spec:
  ipAddressPools:
  - {name}
"
    )
}

impl Service {
    /// The Service as a manifest.
    #[must_use]
    pub fn manifest(&self) -> String {
        let name = &self.name;
        let mut yaml = format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: default\n");
        if self.address.is_some() || self.forwarding.is_some() {
            yaml.push_str("  annotations:\n");
        }
        // Writing to a String cannot fail.
        if let Some(address) = self.address {
            let _ = writeln!(yaml, "    metallb.io/loadBalancerIPs: {address}");
        }
        if let Some(forwarding) = &self.forwarding {
            let _ = writeln!(yaml, "    evenkeel.io/forwarding: {forwarding}");
        }
        let _ = write!(yaml, "spec:\n  type: LoadBalancer\n  selector:\n    app: {name}\n  ports:\n");
        for Port { name, protocol, port, target_port } in &self.ports {
            let protocol = protocol.name();
            let _ =
                writeln!(yaml, "  - {{name: {name}, protocol: {protocol}, port: {port}, targetPort: {target_port}}}");
        }
        yaml
    }

    /// The Service's EndpointSlice as a manifest.
    #[must_use]
    pub fn endpoint_slice(&self, endpoints: &[Endpoint]) -> String {
        let name = &self.name;
        let mut yaml = format!(
            "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: default
  labels:
    kubernetes.io/service-name: {name}
addressType: IPv4
ports:
"
        );
        for Port { name, protocol, target_port, .. } in &self.ports {
            let protocol = protocol.name();
            let _ = writeln!(yaml, "- {{name: {name}, protocol: {protocol}, port: {target_port}}}");
        }
        yaml.push_str(if endpoints.is_empty() { "endpoints: []\n" } else { "endpoints:\n" });
        for Endpoint { name, address, node, condition } in endpoints {
            let conditions = condition.yaml();
            let _ = write!(
                yaml,
                "\
- addresses: [{address}]
  conditions: {conditions}
  nodeName: {node}
  targetRef: {{kind: Pod, namespace: default, name: {name}}}
"
            );
        }
        yaml
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        Service {
            name: "shop".to_owned(),
            address: Some(Ipv4Addr::new(10, 77, 0, 100)),
            ports: vec![Port { name: "http", protocol: Protocol::Tcp, port: 80, target_port: 8080 }],
            forwarding: Some("direct".to_owned()),
        }
    }

    #[test]
    fn a_service_carries_its_wishes_as_annotations() {
        assert_eq!(
            service().manifest(),
            "\
apiVersion: v1
kind: Service
metadata:
  name: shop
  namespace: default
  annotations:
    metallb.io/loadBalancerIPs: 10.77.0.100
    evenkeel.io/forwarding: direct
spec:
  type: LoadBalancer
  selector:
    app: shop
  ports:
  - {name: http, protocol: TCP, port: 80, targetPort: 8080}
"
        );
        let plain = Service { address: None, forwarding: None, ..service() };
        assert!(!plain.manifest().contains("annotations"));
    }

    #[test]
    fn a_slice_lists_target_ports_and_conditions() {
        let endpoint = Endpoint {
            name: "backend-1".to_owned(),
            address: Ipv4Addr::new(10, 77, 1, 11),
            node: "node".to_owned(),
            condition: Condition::Terminating,
        };
        let slice = service().endpoint_slice(&[endpoint]);
        assert!(slice.contains("- {name: http, protocol: TCP, port: 8080}\n"), "{slice}");
        assert!(
            slice.ends_with(
                "\
endpoints:
- addresses: [10.77.1.11]
  conditions: {ready: false, serving: true, terminating: true}
  nodeName: node
  targetRef: {kind: Pod, namespace: default, name: backend-1}
"
            ),
            "{slice}"
        );
        assert!(service().endpoint_slice(&[]).ends_with("endpoints: []\n"));
    }

    #[test]
    fn files_are_replaced_in_one_piece_and_removed() {
        let parent = tempfile::tempdir().unwrap();
        let manifests = Manifests::create(parent.path()).unwrap();
        manifests.write("a.yaml", "first").unwrap();
        manifests.write("a.yaml", "second").unwrap();
        assert_eq!(fs::read_to_string(manifests.directory().join("a.yaml")).unwrap(), "second");
        assert_eq!(fs::read_dir(manifests.directory()).unwrap().count(), 1);
        manifests.remove("a.yaml").unwrap();
        assert!(matches!(manifests.remove("a.yaml"), Err(Error::Io { .. })));
    }
}
