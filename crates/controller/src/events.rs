//! Events about objects: posted one after the other, bounded, and dropped rather than kept back when there are more than
//! an API server should be bothered with.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_plan::world::ObjectName;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::core::params::PostParams;
use kube::core::request::Request;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::reconcile::Note;
use crate::vitals::Vitals;

/// How many events may wait.
const QUEUE: usize = 1000;
/// How many are posted in a second, in the long run.
const RATE: u32 = 50;
/// How many may be posted at once after a quiet time.
const BURST: u32 = 500;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Who says so.
const COMPONENT: &str = "evenkeel-controller";

/// What an event is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) name: ObjectName,
    pub(crate) uid: String,
}

/// Where events are handed in.
#[derive(Clone)]
pub(crate) struct Events {
    queue: mpsc::Sender<(Subject, Note)>,
    vitals: Arc<Vitals>,
}

impl Events {
    /// Ends when the last copy is dropped and everything is posted.
    pub(crate) fn new(client: Client, vitals: Arc<Vitals>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(post_all(client, waiting, Arc::clone(&vitals)));
        Self { queue, vitals }
    }

    pub(crate) fn tell(&self, subject: Subject, note: Note) {
        let Note { warning, reason, message } = &note;
        tracing::info!(kind = subject.kind, name = %subject.name, reason, warning, message, "event");
        if self.queue.try_send((subject, note)).is_err() {
            self.vitals.metrics.told("dropped");
        }
    }
}

async fn post_all(client: Client, mut waiting: mpsc::Receiver<(Subject, Note)>, vitals: Arc<Vitals>) {
    let step = Duration::from_secs(1) / RATE;
    // When the bucket would be empty: it holds as many as lie between that and now.
    let mut empty = Instant::now();
    while let Some((subject, note)) = waiting.recv().await {
        empty = empty.max(Instant::now()) + step;
        tokio::time::sleep_until(empty.checked_sub(step * BURST).unwrap_or(empty)).await;
        let request = post(&subject, &note);
        let posted = timeout(PATIENCE, async { client.request::<Value>(request?).await }).await;
        match posted {
            Ok(Ok(_)) => vitals.metrics.told("posted"),
            Ok(Err(error)) => {
                vitals.metrics.told("failed");
                tracing::debug!(%error, name = %subject.name, "cannot post an event");
            }
            Err(_) => vitals.metrics.told("failed"),
        }
    }
}

fn post(subject: &Subject, note: &Note) -> Result<http::Request<Vec<u8>>, kube::Error> {
    let ObjectName { namespace, name } = &subject.name;
    let now = Timestamp::now();
    let seconds = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": namespace},
        "involvedObject": {
            "apiVersion": subject.version, "kind": subject.kind, "namespace": namespace, "name": name, "uid": subject.uid,
        },
        "type": if note.warning { "Warning" } else { "Normal" },
        "reason": note.reason,
        "message": note.message,
        "count": 1,
        "firstTimestamp": seconds,
        "lastTimestamp": seconds,
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
    });
    let body = serde_json::to_vec(&event).map_err(kube::Error::SerdeError)?;
    Request::new(format!("/api/v1/namespaces/{namespace}/events"))
        .create(&PostParams::default(), body)
        .map_err(kube::Error::BuildRequest)
}
