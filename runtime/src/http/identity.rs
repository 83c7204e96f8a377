//! Which member a client is, and what it may do. Pure: certificate, network document and time in, country out.

use axum::http::{HeaderValue, header::CONNECTION};
use keyferry_schemas::{
    country::Country,
    network::{CertificateState, MemberState, Network, Use},
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
    let own: Vec<_> =
        registrations.filter(|r| network.resolve(r.country) == network.resolve(named)).collect();
    let Some(last) = own.last() else {
        let detail = format!(
            "the client certificate {thumbprint} names {named} and is registered for another country"
        );
        return Err(Problem::new(Code::ClientCountryMismatch, detail));
    };
    own.iter().find(|r| r.in_force(now)).map(|r| r.country).ok_or_else(|| {
        let term = last.term();
        let why = match network.certificate_state(last, now) {
            CertificateState::Pending => format!("is pending: it counts from {} on", term.from),
            CertificateState::Revoked => "is revoked: use another one that is registered".to_owned(),
            _ => format!("has expired on {}: use another one that is registered", term.end()),
        };
        Problem::rejection(
            Rejection::ClientCertificateNotInForce,
            format!("the client certificate {thumbprint} {why}"),
        )
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

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};
    use keyferry_schemas::world::World;

    use super::*;

    #[test]
    fn one_that_is_not_in_force_is_told_why() {
        let now = Timestamp::constant(1_700_000_000, 0);
        let day = SignedDuration::from_hours(24);
        let mut world = World::new(&["DE", "FR"], now).unwrap();
        let sha256 = world.nation("DE").unwrap().authentication.certificate.sha256();
        let client = ClientCertificate { sha256, subject_country: "DE".parse().ok() };
        for (from, until, revoked, why) in [
            (now + day, now + day * 9, None, Some("is pending: it counts from 2023-11-15T22:13:20Z on")),
            (now - day, now, None, Some("has expired on 2023-11-14T22:13:20Z: use another")),
            (now - day, now + day, Some(now), Some("is revoked: use another")),
            (now - day, now + day, Some(now + day), None),
        ] {
            let entry = &mut world.member_mut("DE").unwrap().certificates[0];
            (entry.from, entry.until, entry.revoked) = (from, until, revoked);
            let identified = identify(Some(&client), &world.network().unwrap(), now.into());
            match why {
                None => assert_eq!(identified, Ok("DE".parse().unwrap())),
                Some(why) => {
                    let problem = identified.unwrap_err();
                    assert_eq!(problem.code(), "client-certificate-not-in-force");
                    assert!(problem.to_string().contains(why), "{problem}");
                }
            }
        }
    }
}
