//! Names of fields that are nearly right.

use evenkeel_manifest::Severity::Error;
use evenkeel_manifest::words::close_to;

use super::{Ask, Found};
use crate::fix::Edit;
use crate::picture::{Kind, Object};
use crate::view::View;

const POD: [&str; 40] = [
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "hostnameOverride",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
];
const POD_VOLUMES: &str = "volumes";
const CONTAINER: [&str; 26] = [
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
    "preStop",
];
const LIFECYCLE: [&str; 3] = ["postStart", "preStop", "stopSignal"];
const PROBE: [&str; 10] = [
    "exec",
    "failureThreshold",
    "grpc",
    "httpGet",
    "initialDelaySeconds",
    "periodSeconds",
    "successThreshold",
    "tcpSocket",
    "terminationGracePeriodSeconds",
    "timeoutSeconds",
];
const HOOK: [&str; 4] = ["exec", "httpGet", "sleep", "tcpSocket"];
const SLEEP: [&str; 1] = ["seconds"];
const HTTP: [&str; 5] = ["host", "httpHeaders", "path", "port", "scheme"];
const STRATEGY: [&str; 2] = ["rollingUpdate", "type"];
const DEPLOYMENT: [&str; 8] = [
    "minReadySeconds",
    "paused",
    "progressDeadlineSeconds",
    "replicas",
    "revisionHistoryLimit",
    "selector",
    "strategy",
    "template",
];
const ROLLING: [&str; 3] = ["maxSurge", "maxUnavailable", "partition"];
const SERVICE: [&str; 20] = [
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "ports",
    "publishNotReadyAddresses",
    "selector",
    "sessionAffinity",
    "sessionAffinityConfig",
    "trafficDistribution",
    "type",
];
const BUDGET: [&str; 4] = ["maxUnavailable", "minAvailable", "selector", "unhealthyPodEvictionPolicy"];

pub(super) fn fields(ask: &Ask<'_>, found: &mut Found) {
    for workload in &ask.picture.workloads {
        let object = &workload.object;
        if workload.kind == Kind::Deployment {
            check(found, object, &object.at("spec"), &DEPLOYMENT);
            check(found, object, &object.at("spec.strategy"), &STRATEGY);
            check(found, object, &object.at("spec.strategy.rollingUpdate"), &ROLLING);
        } else {
            check(found, object, &object.at("spec.updateStrategy"), &STRATEGY);
            check(found, object, &object.at("spec.updateStrategy.rollingUpdate"), &ROLLING);
        }
        let pod: Vec<&str> = POD.into_iter().chain([POD_VOLUMES]).collect();
        check(found, object, &workload.pod, &pod);
        for container in &workload.containers {
            check(found, object, &container.view, &CONTAINER);
            check(found, object, &container.view.key("lifecycle"), &LIFECYCLE);
            check(found, object, &container.view.at("lifecycle.preStop"), &HOOK);
            check(found, object, &container.view.at("lifecycle.preStop.sleep"), &SLEEP);
            for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
                check(found, object, &container.view.key(probe), &PROBE);
                check(found, object, &container.view.key(probe).key("httpGet"), &HTTP);
            }
        }
    }
    for service in &ask.picture.services {
        check(found, &service.object, &service.object.at("spec"), &SERVICE);
    }
    for budget in &ask.picture.budgets {
        check(found, &budget.object, &budget.object.at("spec"), &BUDGET);
    }
}

fn check(found: &mut Found, object: &Object<'_>, view: &View<'_>, known: &[&'static str]) {
    let entries = view.entries();
    for (key, value) in &entries {
        // `preStop` is known in a container only as something that belongs elsewhere.
        let misplaced = *key == "preStop" && known.len() == CONTAINER.len();
        if misplaced {
            let message = "`preStop` belongs under `lifecycle`; here it does nothing".to_owned();
            found.add(Error, object, &value.path, message).remedy("move it to lifecycle.preStop");
            continue;
        }
        if known.contains(key) || *key == "<<" {
            continue;
        }
        let meant = match *key {
            "preStopHook" => Some("preStop"),
            "terminationGracePeriod" => Some("terminationGracePeriodSeconds"),
            _ => close_to(key, known),
        };
        let Some(meant) = meant.filter(|meant| known.contains(meant)) else { continue };
        let message = format!("`{key}` is no field of Kubernetes and does nothing");
        let raw = found.add(Error, object, &value.path, message);
        raw.remedy(format!("did you mean `{meant}`?"));
        if entries.iter().all(|(other, _)| *other != meant) {
            raw.fix(vec![Edit::Rename(value.path.clone(), meant.to_owned())]);
        }
    }
}
