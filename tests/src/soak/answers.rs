//! The answers that clients got, held against what was decided.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use keyferry_schemas::network::MemberState;

use super::{
    client::Answer,
    compare::{Judged, name},
    load::Sent,
    model::{Decision, state_of},
    scene::Scene,
};

/// How far behind the newest network version a gateway may be that was not stopped; one that was comes back to it.
const BEHIND: Duration = Duration::from_secs(60);

/// Compares all answers of one origin with what the model says of its records.
///
/// # Errors
/// The first that is another.
pub(super) fn answers(scene: &Scene, journal: &[Sent], judged: &[Judged]) -> Result<()> {
    let mut from = 0;
    for (n, sent) in journal.iter().enumerate() {
        let ready = &sent.ready;
        let at = || format!("answer {} ({}): {:?}", n + 1, ready.upload.tag, sent.answer);
        if let Some(code) = refused(scene, sent) {
            ensure!(sent.answer.code == code, "{} instead of {code}", at());
            continue;
        }
        let own = name(&ready.upload.tag, &ready.body, &ready.signature);
        // One upload at a time: they stand on the topic in the order in which they were sent. A gateway that hung may
        // have added one late.
        let place = judged[from..].iter().position(|j| j.name == own);
        from += place.with_context(|| {
            format!("{}: it is not on the topic, or before what was answered earlier", at())
        })?;
        let own = judged[from..].iter().filter(|j| j.name == own);
        let own: Vec<_> = own.map(|j| expected(&j.decision)).collect();
        ensure!(own.contains(&sent.answer), "{} instead of one of {own:?}", at());
    }
    Ok(())
}

/// The code with which the gateway refused it without writing anything, if it could.
fn refused(scene: &Scene, sent: &Sent) -> Option<&'static str> {
    let paused = "member-not-active";
    let may_be_paused = sent.answer.code == paused && {
        let since = sent.begun.checked_sub(BEHIND).unwrap_or(sent.begun);
        let not_active = |d: &keyferry_schemas::network::Document| {
            let member = d.members.iter().find(|m| m.country.as_str() == sent.ready.upload.origin);
            member.is_none_or(|m| state_of(m, jiff::Timestamp::now()) != MemberState::Active)
        };
        scene.versions_since(since).iter().any(not_active)
    };
    if may_be_paused { Some(paused) } else { sent.ready.refused }
}

/// The words of EFGS for a decision.
fn expected(decision: &Decision) -> Answer {
    let refused = |name: fn(&str) -> &str| {
        decision.refused.iter().map(|(i, code)| (*i, name(code).to_owned())).collect::<Vec<_>>()
    };
    match decision.code {
        Some(code) => {
            let status = match code {
                "batch-tag-conflict" => 409,
                "member-not-active" | "member-unknown" => 403,
                _ => 400,
            };
            Answer { status, code: code.to_owned(), refused: refused(|code| code) }
        }
        None if decision.refused.is_empty() => {
            Answer { status: 201, code: String::new(), refused: Vec::new() }
        }
        None => Answer { status: 207, code: String::new(), refused: refused(|_| "") },
    }
}
