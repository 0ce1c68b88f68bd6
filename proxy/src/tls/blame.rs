//! What a failure of TLS means, and whose fault it is.
//!
//! The other side's refusal of our certificate may come after the handshake (TLS 1.3), as an error of the first read:
//! so whoever reads asks here as well.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription as Alert, CertificateError as Certificate, Error};

/// The text for an error that TLS is behind; `None` for any other. It speaks of the other side as "it".
pub fn blame(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<Error>() {
            return Some(text(error));
        }
        // An error of I/O does not name what it wraps as its source, but the source of that.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(error) = wrapped.and_then(|wrapped| wrapped.downcast_ref::<Error>()) {
            return Some(text(error));
        }
        next = error.source();
    }
    None
}

fn text(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::AlertReceived(alert) => alerted(*alert),
        Error::NoCertificatesPresented => "it shows no certificate, and has to".to_owned(),
        Error::InvalidMessage(_) => format!("it does not speak TLS: {error}"),
        error => error.to_string(),
    }
}

fn certificate(error: &Certificate) -> String {
    match error {
        Certificate::UnknownIssuer => {
            "its certificate was issued by nobody who is trusted here; the CA file names who is".to_owned()
        }
        Certificate::BadSignature => {
            "its certificate was issued with another key than that of the issuer who is trusted here"
                .to_owned()
        }
        Certificate::Expired | Certificate::ExpiredContext { .. } => {
            format!("its certificate is no longer valid, by this machine's clock: {error}")
        }
        Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet, by this machine's clock: {error}")
        }
        Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
            format!("its certificate is for another name: {error}")
        }
        error => format!("its certificate cannot be trusted: {error}"),
    }
}

fn alerted(alert: Alert) -> String {
    match alert {
        Alert::CertificateRequired => "it wants a certificate; give `cert_file` and `key_file`".to_owned(),
        Alert::BadCertificate
        | Alert::UnsupportedCertificate
        | Alert::CertificateRevoked
        | Alert::CertificateExpired
        | Alert::CertificateUnknown
        | Alert::UnknownCA
        | Alert::DecryptError
        | Alert::AccessDenied => {
            format!("it does not take our certificate, or wants one (`cert_file`): {alert:?}")
        }
        Alert::UnrecognisedName => "it has no certificate for the name that was asked for".to_owned(),
        alert => format!("it has ended the handshake: {alert:?}"),
    }
}
