//! Which member a client is, and what it may do. Pure: certificate, network document and time in, country out.

use axum::http::{HeaderValue, header::CONNECTION};
use keyferry_schemas::{
    country::Country,
    network::{MemberState, Network, Use},
    rejection::Rejection,
    time::Millis,
};

use super::{ClientCertificate, Code, Problem};

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Send keys: for active members.
    Upload,
    /// Fetch what was sent to it, or ask what became of its own: for paused members too.
    Download,
}

/// The member whose certificate this is, by the network document in force at `now`.
///
/// # Errors
/// 403 without a certificate, with one that nobody registered, that another country registered or that is not in
/// force; 400 if its subject names no country.
pub fn identify(
    client: Option<&ClientCertificate>,
    network: &Network,
    now: Millis,
) -> Result<Country, Problem> {
    let client = client.ok_or_else(|| {
        let detail = "no client certificate came with this request; connect with the certificate registered for your country";
        ends(Problem::new(Code::ClientCertificateMissing, detail))
    })?;
    let named = client.subject_country.ok_or_else(|| {
        let detail = "the subject of the client certificate names no single country; it needs one C attribute, such as C=DE";
        Problem::new(Code::ClientCountryMissing, detail)
    })?;
    let thumbprint = hex::encode(client.sha256);
    let mut registrations = network.registered(&client.sha256, Use::Authentication).peekable();
    if registrations.peek().is_none() {
        let detail =
            format!("the client certificate {thumbprint} is not registered; ask the operator to register it");
        return Err(ends(Problem::rejection(Rejection::ClientCertificateUnknown, detail)));
    }
    let mut own = registrations.filter(|r| network.resolve(r.country) == network.resolve(named)).peekable();
    if own.peek().is_none() {
        let detail = format!(
            "the client certificate {thumbprint} names {named} and is registered for another country"
        );
        return Err(Problem::new(Code::ClientCountryMismatch, detail));
    }
    own.find(|r| r.in_force(now)).map(|r| r.country).ok_or_else(|| {
        let detail = format!("the client certificate {thumbprint} is expired, revoked or not in force yet");
        Problem::rejection(Rejection::ClientCertificateNotInForce, detail)
    })
}

/// A stranger gets one answer and not a connection to keep: places are for those that are known.
fn ends(problem: Problem) -> Problem {
    problem.header(CONNECTION, HeaderValue::from_static("close"))
}

impl Access {
    /// Whether `country` may do this at `now`.
    ///
    /// # Errors
    /// 403 `member-not-active`.
    pub fn check(self, country: Country, network: &Network, now: Millis) -> Result<(), Problem> {
        let state = network.state(country, now);
        match (self, state) {
            (_, MemberState::Active) | (Self::Download, MemberState::Paused) => Ok(()),
            _ => {
                let state = match state {
                    MemberState::Active => "active",
                    MemberState::Paused => "paused: it can fetch and not send",
                    MemberState::Pending => "pending: it has not begun",
                    MemberState::Left => "ended",
                };
                let detail = format!("the membership of {country} is {state}; its operator can change that");
                Err(Problem::rejection(Rejection::MemberNotActive, detail))
            }
        }
    }
}
