//! Kubernetes manifests in a directory: all that the load balancer under test sees of a lab.

use std::{
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::{
    Error,
    topology::{VIP_POOL, VIP_POOL6},
};

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
    /// The VIPs it asks for, one of a family at most; without any it takes an IPv4 address that the pool gives.
    pub addresses: Vec<IpAddr>,
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
    /// The pod's addresses; the slice of a family has those of that family.
    pub addresses: Vec<IpAddr>,
    /// The node the pod runs on.
    pub node: String,
    /// What Kubernetes says of it.
    pub condition: Condition,
}

/// An IP family, as Service and EndpointSlice name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// An IPAddressPool over the lab's addresses for services, of both families, and an L2Advertisement of it.
#[must_use]
pub fn pool(name: &str) -> String {
    let ((first, last), (first6, last6)) = (VIP_POOL, VIP_POOL6);
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
  - {first6}-{last6}
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
        if !self.addresses.is_empty() || self.forwarding.is_some() {
            yaml.push_str("  annotations:\n");
        }
        // Writing to a String cannot fail.
        if !self.addresses.is_empty() {
            let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
            let _ = writeln!(yaml, "    metallb.io/loadBalancerIPs: {}", addresses.join(","));
        }
        if let Some(forwarding) = &self.forwarding {
            let _ = writeln!(yaml, "    evenkeel.io/forwarding: {forwarding}");
        }
        yaml.push_str("spec:\n  type: LoadBalancer\n");
        let families = self.families();
        if families != [Family::V4] {
            let policy = if families.len() > 1 { "RequireDualStack" } else { "SingleStack" };
            let names: Vec<&str> = families.iter().map(|family| family.name()).collect();
            let _ = writeln!(yaml, "  ipFamilyPolicy: {policy}\n  ipFamilies: [{}]", names.join(", "));
        }
        let _ = write!(yaml, "  selector:\n    app: {name}\n  ports:\n");
        for Port { name, protocol, port, target_port } in &self.ports {
            let protocol = protocol.name();
            let _ =
                writeln!(yaml, "  - {{name: {name}, protocol: {protocol}, port: {port}, targetPort: {target_port}}}");
        }
        yaml
    }

    /// The Service's EndpointSlices as a manifest, one of each of its families.
    #[must_use]
    pub fn endpoint_slices(&self, endpoints: &[Endpoint]) -> String {
        let slices: Vec<String> =
            self.families().into_iter().map(|family| self.endpoint_slice(family, endpoints)).collect();
        slices.join("---\n")
    }

    fn endpoint_slice(&self, family: Family, endpoints: &[Endpoint]) -> String {
        let service = &self.name;
        let address_type = family.name();
        let mut yaml = format!(
            "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {service}-{suffix}
  namespace: default
  labels:
    kubernetes.io/service-name: {service}
addressType: {address_type}
ports:
",
            suffix = address_type.to_lowercase()
        );
        for Port { name, protocol, target_port, .. } in &self.ports {
            let protocol = protocol.name();
            let _ = writeln!(yaml, "- {{name: {name}, protocol: {protocol}, port: {target_port}}}");
        }
        yaml.push_str(if endpoints.is_empty() { "endpoints: []\n" } else { "endpoints:\n" });
        for Endpoint { name, addresses, node, condition } in endpoints {
            let conditions = condition.yaml();
            for address in addresses.iter().filter(|address| Family::of(address) == family) {
                // Debug quotes: colons mean something else to YAML.
                let address = match family {
                    Family::V4 => address.to_string(),
                    Family::V6 => format!("{:?}", address.to_string()),
                };
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
        }
        yaml
    }

    /// Those of its addresses.
    fn families(&self) -> Vec<Family> {
        let mut families: Vec<Family> = self.addresses.iter().map(Family::of).collect();
        families.dedup();
        if families.is_empty() { vec![Family::V4] } else { families }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const VIP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x100));

    fn service() -> Service {
        Service {
            name: "shop".to_owned(),
            addresses: vec![Ipv4Addr::new(10, 77, 0, 100).into()],
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
        let plain = Service { addresses: Vec::new(), forwarding: None, ..service() };
        assert!(!plain.manifest().contains("annotations"));
    }

    #[test]
    fn a_service_with_an_ipv6_address_asks_for_its_families() {
        let mut service = service();
        service.addresses.push(VIP6);
        let manifest = service.manifest();
        assert!(manifest.contains("    metallb.io/loadBalancerIPs: 10.77.0.100,fd77::100\n"), "{manifest}");
        assert!(manifest.contains("  ipFamilyPolicy: RequireDualStack\n  ipFamilies: [IPv4, IPv6]\n"), "{manifest}");
        let slices = service.endpoint_slices(&[endpoint()]);
        assert!(slices.contains("  name: shop-ipv4\n") && slices.contains("\n---\n"), "{slices}");
        let (_, of_ipv6) = slices.split_once("addressType: IPv6\n").unwrap();
        assert!(of_ipv6.contains("- addresses: [\"fd77:0:0:1::b\"]\n") && !of_ipv6.contains("10.77"), "{of_ipv6}");

        service.addresses.remove(0);
        let manifest = service.manifest();
        assert!(manifest.contains("  ipFamilyPolicy: SingleStack\n  ipFamilies: [IPv6]\n"), "{manifest}");
        assert!(!service.endpoint_slices(&[endpoint()]).contains("10.77"));
    }

    fn endpoint() -> Endpoint {
        let addresses = ["10.77.1.11", "fd77:0:0:1::b"].map(|address| address.parse().unwrap());
        Endpoint {
            name: "backend-1".to_owned(),
            addresses: addresses.into(),
            node: "node".to_owned(),
            condition: Condition::Terminating,
        }
    }

    #[test]
    fn a_slice_lists_target_ports_and_conditions() {
        let slice = service().endpoint_slices(&[endpoint()]);
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
        assert!(service().endpoint_slices(&[]).ends_with("endpoints: []\n"));
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
