//! Lists, page by page.

use std::time::Duration;

use kube::Client;
use kube::core::Status;
use kube::core::params::ListParams;
use kube::core::request::Request;
use serde::Deserialize;
use serde_json::Value;

/// How many objects are asked for at once.
pub(super) const PAGE: u32 = 500;
/// How long an answer may take to begin, or a page of a list to come.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// How often a list begins again whose rest has gone before it was asked for.
const ATTEMPTS: usize = 5;

/// A page of a list.
#[derive(Deserialize)]
pub(super) struct Page {
    #[serde(default)]
    pub(super) metadata: PageMetadata,
    #[serde(default)]
    pub(super) items: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PageMetadata {
    #[serde(default)]
    pub(super) resource_version: String,
    #[serde(default, rename = "continue")]
    pub(super) next: Option<String>,
}

/// All objects at a path such as `/api/v1/services`, once. Items of a list do not say what kind they are of.
///
/// # Errors
/// The API's answer, or that there was none.
pub async fn list(client: &Client, path: &str) -> Result<Vec<Value>, kube::Error> {
    list_selected(client, path, None).await
}

/// The same, of those that a field selector selects.
pub(super) async fn list_selected(
    client: &Client,
    path: &str,
    fields: Option<&str>,
) -> Result<Vec<Value>, kube::Error> {
    let mut attempts = 1;
    let (mut params, mut objects) = (ListParams::default().limit(PAGE), Vec::new());
    params.field_selector = fields.map(str::to_owned);
    loop {
        let page = match page(client, path, &params).await {
            Err(kube::Error::Api(status)) if is_gone(&status) && attempts < ATTEMPTS => {
                attempts += 1;
                params.continue_token = None;
                objects.clear();
                continue;
            }
            page => page?,
        };
        objects.extend(page.items.unwrap_or_default());
        match page.metadata.next.filter(|next| !next.is_empty()) {
            Some(next) => params.continue_token = Some(next),
            None => return Ok(objects),
        }
    }
}

pub(super) async fn page(client: &Client, path: &str, params: &ListParams) -> Result<Page, kube::Error> {
    let request = Request::new(path).list(params).map_err(kube::Error::BuildRequest)?;
    in_time(client.request(request)).await
}

/// An answer, if it comes in time.
pub(super) async fn in_time<T>(answer: impl Future<Output = Result<T, kube::Error>>) -> Result<T, kube::Error> {
    tokio::time::timeout(ANSWER_TIME, answer).await.unwrap_or_else(|_| Err(no_answer()))
}

pub(super) fn no_answer() -> kube::Error {
    kube::Error::Service("no answer in time".into())
}

pub(super) fn is_gone(status: &Status) -> bool {
    status.code == 410 || matches!(status.reason.as_str(), "Expired" | "Gone")
}
