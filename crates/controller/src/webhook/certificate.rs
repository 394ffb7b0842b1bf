//! The webhook's certificate: made here, by an authority that exists for this one certificate and whose key is thrown away, so
//! that the bundle API servers trust vouches for nothing else.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, crypto};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

/// By how much clocks may differ: a certificate is good from so long ago.
const SKEW: Duration = Duration::from_secs(3600);
/// The part of its validity that is left when a certificate is replaced.
const LEFT: u32 = 3;
/// Authorities in a bundle at most, the newest first.
const MAX_AUTHORITIES: usize = 8;

/// A certificate, its key, and the authority that vouches for it.
#[derive(Clone)]
pub(super) struct Identity {
    /// PEM.
    pub(super) authority: String,
    /// PEM.
    pub(super) certificate: String,
    /// PEM.
    pub(super) key: String,
    /// Since 1970.
    pub(super) not_after: Duration,
    names: Vec<String>,
    certified: Arc<CertifiedKey>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("not_after", &self.not_after)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// Why an identity cannot be made, or used.
#[derive(Debug, thiserror::Error)]
pub(super) enum IdentityError {
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("not PEM: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    #[error("not an X.509 certificate: {0}")]
    Certificate(String),
    #[error("key and certificate cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

impl Identity {
    /// A new one for these DNS names, good from `now` on for so long.
    pub(super) fn make(names: &[String], now: SystemTime, validity: Duration) -> Result<Self, IdentityError> {
        let dated = |mut params: CertificateParams, name: &str| {
            params.not_before = OffsetDateTime::from(now - SKEW);
            params.not_after = OffsetDateTime::from(now + validity);
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let mut authority = dated(CertificateParams::new(Vec::new())?, "evenkeel webhook authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority_key = KeyPair::generate()?;
        let authority_pem = authority.self_signed(&authority_key)?.pem();

        let mut own = dated(CertificateParams::new(names)?, "evenkeel webhook");
        own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        own.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = own.signed_by(&key, &Issuer::new(authority, authority_key))?;
        Self::read(authority_pem, certificate.pem(), key.serialize_pem())
    }

    /// One that was kept.
    pub(super) fn read(authority: String, certificate: String, key: String) -> Result<Self, IdentityError> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>()?;
        CertificateDer::from_pem_slice(authority.as_bytes())?;
        let own = chain.first().ok_or_else(|| IdentityError::Certificate("there is none".to_owned()))?;
        let (not_after, names) = look_into(own)?;
        let private = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let certified = CertifiedKey::from_der(chain, private, &crypto::ring::default_provider())?;
        Ok(Self { authority, certificate, key, not_after, names, certified: Arc::new(certified) })
    }

    /// Whether it is time for another one: it ends soon, or is not for these names.
    pub(super) fn is_due(&self, names: &[String], now: SystemTime, validity: Duration) -> bool {
        let left = self.not_after.saturating_sub(since_1970(now));
        left < validity / LEFT || names.iter().any(|name| !self.names.contains(name))
    }
}

/// When a certificate ends, since 1970, and the DNS names it is for.
fn look_into(certificate: &CertificateDer<'_>) -> Result<(Duration, Vec<String>), IdentityError> {
    let bad = |error: &dyn fmt::Display| IdentityError::Certificate(error.to_string());
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| bad(&error))?;
    let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
    let names = parsed.subject_alternative_name().map_err(|error| bad(&error))?;
    let names = names.into_iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    Ok((Duration::from_secs(end), names.collect()))
}

pub(super) fn since_1970(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What API servers are to trust, as PEM: this authority, and those they trusted so far whose time has not come, because
/// another replica may still show their certificates.
pub(super) fn bundle(authority: &str, trusted: &str, now: SystemTime) -> String {
    let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
    let pem = |certificate: &[u8]| pem::encode_config(&Pem::new("CERTIFICATE", certificate), config);
    let own = CertificateDer::from_pem_slice(authority.as_bytes()).ok();
    let others = CertificateDer::pem_slice_iter(trusted.as_bytes()).filter_map(Result::ok);
    let good = others
        .filter(|other| Some(other) != own.as_ref())
        .filter(|other| look_into(other).is_ok_and(|(not_after, _)| not_after > since_1970(now)));
    own.iter().cloned().chain(good).take(MAX_AUTHORITIES).map(|certificate| pem(&certificate)).collect()
}

/// The certificate that is shown at present.
#[derive(Debug, Default)]
pub(super) struct Shown(RwLock<Option<Arc<CertifiedKey>>>);

impl Shown {
    /// Shows this one from the next connection on.
    pub(super) fn set(&self, identity: &Identity) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&identity.certified));
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALIDITY: Duration = Duration::from_secs(90 * 86400);
    const HOUR: Duration = Duration::from_secs(3600);

    fn names() -> Vec<String> {
        vec!["evenkeel-webhook.lb.svc".to_owned()]
    }

    #[test]
    fn what_is_kept_can_be_used_again() {
        let now = SystemTime::now();
        let made = Identity::make(&names(), now, VALIDITY).unwrap();
        let read = Identity::read(made.authority, made.certificate, made.key).unwrap();
        assert_eq!(read.not_after, Duration::from_secs(since_1970(now + VALIDITY).as_secs()));
        assert_eq!(read.names, names());
        assert!(!format!("{read:?}").contains("KEY"));
    }

    #[test]
    fn it_is_replaced_before_it_ends_or_when_names_differ() {
        let now = SystemTime::now();
        let made = Identity::make(&names(), now, VALIDITY).unwrap();
        assert!(!made.is_due(&names(), now, VALIDITY));
        assert!(!made.is_due(&names(), now + VALIDITY * 2 / 3 - HOUR, VALIDITY));
        assert!(made.is_due(&names(), now + VALIDITY * 2 / 3 + HOUR, VALIDITY));
        assert!(made.is_due(&names(), now + VALIDITY * 2, VALIDITY));
        assert!(made.is_due(&["evenkeel-webhook.other.svc".to_owned()], now, VALIDITY));
    }

    #[test]
    fn what_is_no_identity_is_named() {
        let made = Identity::make(&names(), SystemTime::now(), VALIDITY).unwrap();
        let other = Identity::make(&names(), SystemTime::now(), VALIDITY).unwrap();
        let error = |certificate: &str, key: &str| {
            Identity::read(made.authority.clone(), certificate.to_owned(), key.to_owned()).unwrap_err().to_string()
        };
        assert!(error("", &made.key).contains("there is none"));
        assert!(error(&made.certificate, "nonsense").starts_with("not PEM"));
        assert!(error(&made.certificate, &other.key).starts_with("key and certificate cannot be used"));
        let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(error(garbage, &made.key).starts_with("not an X.509 certificate"));
    }

    #[test]
    fn who_was_trusted_is_trusted_to_the_end() {
        let now = SystemTime::now();
        let [one, two] = [VALIDITY, VALIDITY * 2].map(|validity| Identity::make(&names(), now, validity).unwrap());
        let first = bundle(&one.authority, "", now);
        assert_eq!(first.matches("BEGIN CERTIFICATE").count(), 1);
        assert_eq!(bundle(&one.authority, &first, now), first, "nothing to write");
        let both = bundle(&two.authority, &first, now);
        assert_eq!(both.matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(bundle(&two.authority, &both, now), both);
        let later = bundle(&two.authority, &both, now + VALIDITY + HOUR);
        assert_eq!(later, bundle(&two.authority, "", now));
        assert_eq!(bundle(&one.authority, "garbage", now), first);
        let many = (0..12).fold(String::new(), |trusted, _| {
            bundle(&Identity::make(&names(), now, VALIDITY).unwrap().authority, &trusted, now)
        });
        assert_eq!(many.matches("BEGIN CERTIFICATE").count(), MAX_AUTHORITIES);
    }
}
