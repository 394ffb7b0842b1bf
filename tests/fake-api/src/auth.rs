//! Who asks, whether they may (RBAC), and a record of what was asked.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::object::text;
use crate::store::Store;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Such as `system:serviceaccount:evenkeel-system:controller`.
    pub name: String,
    /// Such as `system:masters`, which may do everything.
    pub groups: Vec<String>,
}

impl User {
    /// The user who may do everything.
    pub fn admin() -> Self {
        Self {
            name: "kubernetes-admin".to_owned(),
            groups: vec!["system:masters".into(), "system:authenticated".into()],
        }
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
        }
    }

    pub(crate) fn anonymous() -> Self {
        Self { name: "system:anonymous".to_owned(), groups: vec!["system:unauthenticated".to_owned()] }
    }
}

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Action {
    pub(crate) verb: String,
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Action {
    fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The message of a refusal.
    pub(crate) fn refusal(&self, user: &User) -> String {
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        format!(
            "User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {scope}",
            user.name,
            self.verb,
            self.full_resource(),
            self.group
        )
    }
}

/// Whether RBAC lets `user` do this.
pub(crate) fn allowed(store: &Store, user: &User, action: &Action) -> bool {
    if user.groups.iter().any(|group| group == "system:masters") {
        return true;
    }
    let cluster = store.snapshot("rbac.authorization.k8s.io/clusterrolebindings");
    let cluster_wide = cluster
        .values()
        .any(|binding| binds(&binding.value, user, "") && rules_allow(store, &binding.value, "", action));
    if cluster_wide || action.namespace.is_empty() {
        return cluster_wide;
    }
    let local = store.snapshot("rbac.authorization.k8s.io/rolebindings");
    local.iter().filter(|((namespace, _), _)| *namespace == action.namespace).any(|(_, binding)| {
        binds(&binding.value, user, &action.namespace) && rules_allow(store, &binding.value, &action.namespace, action)
    })
}

fn binds(binding: &Value, user: &User, namespace: &str) -> bool {
    list(binding, "subjects").any(|subject| {
        let name = text(subject, &["name"]);
        match text(subject, &["kind"]) {
            "User" => name == user.name,
            "Group" => user.groups.iter().any(|group| group == name),
            "ServiceAccount" => {
                let home = match text(subject, &["namespace"]) {
                    "" => namespace,
                    home => home,
                };
                user.name == format!("system:serviceaccount:{home}:{name}")
            }
            _ => false,
        }
    })
}

fn rules_allow(store: &Store, binding: &Value, namespace: &str, action: &Action) -> bool {
    let name = text(binding, &["roleRef", "name"]).to_owned();
    let role = match text(binding, &["roleRef", "kind"]) {
        "ClusterRole" => store.get("rbac.authorization.k8s.io/clusterroles", &(String::new(), name)),
        _ => store.get("rbac.authorization.k8s.io/roles", &(namespace.to_owned(), name)),
    };
    let Some(role) = role else { return false };
    if let Some(aggregation) = role.value.get("aggregationRule") {
        let roles = store.snapshot("rbac.authorization.k8s.io/clusterroles");
        return list(aggregation, "clusterRoleSelectors").any(|selector| {
            roles.values().any(|one| {
                let labels = crate::object::at(&one.value, &["metadata", "labels"]);
                crate::select::selects(Some(selector), labels)
                    && list(&one.value, "rules").any(|rule| grants(rule, action))
            })
        });
    }
    list(&role.value, "rules").any(|rule| grants(rule, action))
}

fn grants(rule: &Value, action: &Action) -> bool {
    let has =
        |name: &str, wanted: &str| list(rule, name).filter_map(Value::as_str).any(|one| one == wanted || one == "*");
    let resource = has("resources", &action.full_resource())
        || (!action.subresource.is_empty() && has("resources", &format!("*/{}", action.subresource)));
    let mut names = list(rule, "resourceNames").filter_map(Value::as_str).peekable();
    has("verbs", &action.verb)
        && has("apiGroups", &action.group)
        && resource
        && (names.peek().is_none() || names.any(|one| one == action.name))
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

/// One kind of request, as RBAC rules name them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Used {
    /// Who asked.
    pub user: String,
    /// Such as `list`.
    pub verb: String,
    /// API group, empty for the core group.
    pub group: String,
    /// Plural name.
    pub resource: String,
    /// Empty, or such as `status`.
    pub subresource: String,
}

/// How often each kind of request was made, or refused.
#[derive(Debug, Default)]
pub(crate) struct Audit(Mutex<BTreeMap<Used, u64>>);

impl Audit {
    pub(crate) fn record(&self, user: &User, action: &Action) {
        let used = Used {
            user: user.name.clone(),
            verb: action.verb.clone(),
            group: action.group.clone(),
            resource: action.resource.clone(),
            subresource: action.subresource.clone(),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(used).or_default() += 1;
    }

    pub(crate) fn all(&self) -> BTreeMap<Used, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn json(&self) -> Value {
        self.all()
            .into_iter()
            .map(|(used, count)| {
                json!({"user": used.user, "verb": used.verb, "group": used.group, "resource": used.resource,
                    "subresource": used.subresource, "count": count})
            })
            .collect()
    }
}
