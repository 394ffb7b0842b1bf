//! The validating webhook as the plain manifests install it: kubectl applies, an API server calls over HTTPS, and the real
//! binary answers. `scripts/setup.sh test` fetches kubectl.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use evenkeel_fake_api::{FakeApi, Handle, Options, User};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

/// How long anything may take on a machine that does other things as well.
const PATIENCE: Duration = Duration::from_secs(180);
const SYSTEM: &str = "metallb-system";
const WEBHOOK: &str = "evenkeel-webhook";
const METALLB: &str = "/apis/metallb.io/v1beta1/namespaces/metallb-system";
const SECRET: &str = "/api/v1/namespaces/metallb-system/secrets/evenkeel-webhook";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/metallb-system/endpointslices";
const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/evenkeel-webhook";

/// A cluster into which the manifests were applied.
struct Cluster {
    api: Handle,
    client: Client,
    directory: tempfile::TempDir,
}

/// What kubectl came to.
struct Said {
    successful: bool,
    text: String,
}

impl Cluster {
    async fn start() -> Self {
        let options = Options { tls: true, rbac: true, ..Options::default() };
        let api = FakeApi::start("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
        let config = Kubeconfig::from_yaml(&api.kubeconfig()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("kubeconfig"), api.kubeconfig()).unwrap();
        let account = api.kubeconfig_for(User::service_account(SYSTEM, "evenkeel-controller"));
        std::fs::write(directory.path().join("account"), account).unwrap();
        let cluster = Self { api, client: Client::try_from(config).unwrap(), directory };
        let manifests = root().join("manifests/evenkeel.yaml");
        let said = cluster.kubectl(&["apply", "--server-side", "-f", manifests.to_str().unwrap()]);
        assert!(said.successful, "{}", said.text);
        cluster
    }

    fn kubectl(&self, arguments: &[&str]) -> Said {
        let program = tool("kubectl");
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.directory).env("HOME", self.directory.path());
        command.env("KUBECONFIG", self.directory.path().join("kubeconfig"));
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Said { successful: output.status.success(), text }
    }

    fn apply(&self, object: &Value, arguments: &[&str]) -> Said {
        let file = self.directory.path().join("object.json");
        std::fs::write(&file, object.to_string()).unwrap();
        self.kubectl(&[&["apply", "-f", "object.json"], arguments].concat())
    }

    /// What is said to someone whose object is refused.
    fn refused(&self, object: &Value) -> String {
        let said = self.apply(object, &[]);
        assert!(!said.successful, "accepted: {}", said.text);
        assert!(
            said.text.contains(r#"admission webhook "configuration.evenkeel.io" denied the request: "#),
            "{}",
            said.text
        );
        said.text
    }

    fn accepted(&self, object: &Value) -> String {
        let said = self.apply(object, &[]);
        assert!(said.successful, "{}", said.text);
        said.text
    }

    async fn get(&self, path: &str) -> Option<Value> {
        self.client.request(http::Request::get(path).body(Vec::new()).unwrap()).await.ok()
    }

    async fn send(&self, method: &str, path: &str, media: &str, body: &Value) -> Value {
        let request = http::Request::builder().method(method).uri(path).header("content-type", media);
        self.client.request(request.body(body.to_string().into_bytes()).unwrap()).await.unwrap()
    }

    /// What Kubernetes would: these replicas, and no others, are behind the Service.
    async fn set_endpoints(&self, replicas: &[&Replica]) {
        for name in ["webhook-0", "webhook-1"] {
            let path = format!("{SLICES}/{name}");
            if self.get(&path).await.is_some() {
                self.send("DELETE", &path, "application/json", &json!({})).await;
            }
        }
        for (n, replica) in replicas.iter().enumerate() {
            let slice = json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": format!("webhook-{n}"), "labels": {"kubernetes.io/service-name": WEBHOOK}},
                "addressType": "IPv4", "ports": [{"name": "webhook", "port": replica.webhook.port(), "protocol": "TCP"}],
                "endpoints": [{"addresses": [replica.webhook.ip().to_string()], "conditions": {"ready": true}}],
            });
            self.send("POST", SLICES, "application/json", &slice).await;
        }
    }

    /// Whether a pool that overlaps one of these is refused at present. It is not kept.
    fn refuses(&self, overlapping: &Value) -> bool {
        let said = self.apply(overlapping, &["--dry-run=server"]);
        assert!(said.successful || said.text.contains("pool_overlap"), "{}", said.text);
        !said.successful
    }

    async fn until(&self, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let started = Instant::now();
        while !is_so().await {
            assert!(started.elapsed() < PATIENCE, "not so after {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The certificate that is kept.
    async fn certificate(&self) -> Value {
        self.get(SECRET).await.unwrap()["data"]["tls.crt"].clone()
    }

    /// How many authorities API servers trust.
    async fn trusted(&self) -> usize {
        use base64::Engine as _;
        let configuration = self.get(CONFIGURATION).await.unwrap();
        let bundle = configuration["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap_or_default();
        let bundle = base64::engine::general_purpose::STANDARD.decode(bundle).unwrap();
        String::from_utf8(bundle).unwrap().matches("BEGIN CERTIFICATE").count()
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn tool(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let path = target.join("tools").join(name);
    assert!(path.is_file(), "{} does not exist: `scripts/setup.sh test` fetches it", path.display());
    path
}

/// A replica of the controller.
struct Replica {
    process: Child,
    webhook: SocketAddr,
    metrics: SocketAddr,
}

impl Replica {
    /// Runs one whose certificates are good for so long.
    fn start(cluster: &Cluster, identity: &str, validity: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        command.args(["controller", "--namespace", SYSTEM, "--identity", identity, "--listen", "127.0.0.1:0"]);
        command.args(["--lease-duration", "4s", "--renew-deadline", "2s", "--retry-period", "200ms"]);
        command.args(["--webhook", WEBHOOK, "--webhook-listen", "127.0.0.1:0", "--webhook-validity", validity]);
        command.env("KUBECONFIG", cluster.directory.path().join("account"));
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let metrics = address(process.stdout.take().unwrap(), "listening ");
        let webhook = address(process.stderr.take().unwrap(), "serving the webhook address=");
        Self { process, webhook, metrics }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// When the certificate that it shows ends, by its metrics.
    fn not_after(&self) -> u64 {
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("evenkeel_webhook_certificate_not_after_seconds "));
        line.unwrap_or_else(|| panic!("no certificate in\n{text}")).parse().unwrap()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The address after these words in what a process says, which is read to its end.
fn address(said: impl std::io::Read + Send + 'static, words: &'static str) -> SocketAddr {
    let (found, address) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            if let Some((_, rest)) = line.split_once(words) {
                let _ = found.send(rest.split_whitespace().next().unwrap().parse().unwrap());
            }
        }
    });
    address.recv_timeout(PATIENCE).unwrap()
}

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    let version = if kind == "BGPPeer" { "v1beta2" } else { "v1beta1" };
    let metadata = json!({"name": name, "namespace": SYSTEM});
    json!({"apiVersion": format!("metallb.io/{version}"), "kind": kind, "metadata": metadata, "spec": spec})
}

fn pool(name: &str, range: &str) -> Value {
    object("IPAddressPool", name, &json!({"addresses": [range]}))
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_configuration_is_refused_when_applied_and_where_it_is_read() {
    let cluster = Cluster::start().await;
    let mut replica = Replica::start(&cluster, "first", "90d");
    cluster.set_endpoints(&[&replica]).await;
    cluster.accepted(&pool("lan", "192.168.1.0/24"));
    let overlapping = pool("office", "192.168.1.100-192.168.1.110");
    cluster.until("the certificate is trusted", async || cluster.refuses(&overlapping)).await;

    let said = cluster.refused(&overlapping);
    let expected = "pool_overlap: IPAddressPool metallb-system/office, spec.addresses[0]: pool `office` \
                    (192.168.1.100-192.168.1.110) overlaps pool `lan` (192.168.1.0-192.168.1.255)";
    assert!(said.contains(expected) && said.contains("; give each address to one pool only"), "{said}");
    // The definitions let these pass.
    let said = cluster.refused(&pool("typo", "192.168.2.1-192.168.1.9"));
    assert!(said.contains("invalid_range: IPAddressPool metallb-system/typo, spec.addresses[0]: "), "{said}");
    let within =
        json!({"nodeSelectors": [{"matchExpressions": [{"key": "zone", "operator": "Within", "values": ["a"]}]}]});
    let said = cluster.refused(&object("L2Advertisement", "zone", &within));
    assert!(said.contains("use one of In, NotIn, Exists, DoesNotExist"), "{said}");
    let mut elsewhere = pool("elsewhere", "192.168.3.0/24");
    elsewhere["metadata"]["namespace"] = "default".into();
    assert!(cluster.refused(&elsewhere).contains("outside_system_namespace: "));
    // The other family.
    cluster.accepted(&pool("lan6", "fd00::/64"));
    assert!(cluster.refused(&pool("office6", "fd00::10-fd00::20")).contains("pool_overlap: "));

    let peer = json!({"myASN": 64512, "peerASN": 64513, "peerAddress": "192.168.1.1", "bfdProfile": "fast"});
    let said = cluster.accepted(&object("BGPPeer", "router", &peer));
    assert!(
        said.contains("Warning: bfd_profile_not_found: BGPPeer metallb-system/router, spec.bfdProfile: "),
        "{said}"
    );
    cluster.accepted(&object("BFDProfile", "fast", &json!({})));
    let delete = |plural: &str, name: &str| cluster.kubectl(&["delete", plural, name, "-n", SYSTEM, "--timeout=60s"]);
    let said = delete("bfdprofiles", "fast");
    assert!(!said.successful && said.text.contains("first remove spec.bfdProfile from BGPPeer"), "{}", said.text);
    for (plural, name) in [("bgppeers", "router"), ("bfdprofiles", "fast")] {
        let said = delete(plural, name);
        assert!(said.successful, "{}", said.text);
    }

    // Without anybody to ask the API server accepts it, and the controller still does not use it.
    replica.kill();
    cluster.accepted(&overlapping);
    let replica = Replica::start(&cluster, "second", "90d");
    let path = format!("{METALLB}/configurationstates/controller");
    cluster
        .until("the reader refuses it", async || {
            let Some(state) = cluster.get(&path).await else { return false };
            let summary = state["status"]["errorSummary"].as_str().unwrap_or_default().to_owned();
            state["status"]["result"] == "Invalid" && summary.contains("overlaps pool `lan`")
        })
        .await;

    // What is there may be labelled, mended and deleted, and not made worse.
    cluster.set_endpoints(&[&replica]).await;
    let worse = pool("office", "192.168.1.0-192.168.1.110");
    cluster.until("the webhook is back", async || cluster.refuses(&worse)).await;
    let said = cluster.kubectl(&["label", "ipaddresspool", "office", "-n", SYSTEM, "site=berlin"]);
    assert!(said.successful, "{}", said.text);
    cluster.accepted(&pool("office", "192.168.4.0/24"));
    assert!(delete("ipaddresspools", "office").successful);
    assert!(cluster.api.refusals().is_empty(), "{:?}", cluster.api.refusals());
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_renewed_while_two_replicas_show_them() {
    let cluster = Cluster::start().await;
    cluster.accepted(&pool("lan", "192.168.1.0/24"));
    let overlapping = pool("office", "192.168.1.100-192.168.1.110");
    let replicas = ["a", "b"].map(|identity| Replica::start(&cluster, identity, "60s"));
    for replica in &replicas {
        cluster.set_endpoints(&[replica]).await;
        cluster.until("it is understood", async || cluster.refuses(&overlapping)).await;
    }
    let first = cluster.certificate().await;
    assert_eq!(cluster.trusted().await, 1, "both show the same");
    let shown = replicas.each_ref().map(Replica::not_after);
    assert_eq!(shown[0], shown[1]);

    // Each is asked again and again, while one certificate takes the place of the other.
    let mut asked = 0;
    cluster
        .until("both show the next one", async || {
            cluster.set_endpoints(&[&replicas[asked % 2]]).await;
            assert!(cluster.refuses(&overlapping), "a replica is not understood");
            asked += 1;
            replicas.iter().all(|replica| replica.not_after() > shown[0])
        })
        .await;
    assert_ne!(cluster.certificate().await, first);
    assert_eq!(cluster.trusted().await, 2, "the one before is trusted until it ends");
    cluster.until("the one before ends", async || cluster.trusted().await == 1).await;

    // Somebody empties the Secret.
    let second = cluster.certificate().await;
    cluster.send("PATCH", SECRET, "application/merge-patch+json", &json!({"data": null})).await;
    cluster.until("there is another one", async || cluster.certificate().await.is_string()).await;
    assert_ne!(cluster.certificate().await, second);
    for replica in &replicas {
        cluster.set_endpoints(&[replica]).await;
        assert!(cluster.refuses(&overlapping), "the one before is still trusted");
    }
}
