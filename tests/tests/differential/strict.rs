//! What holds of lbnode whatever HAProxy does: nothing ambiguous reaches a server, and what was valid arrives as it was sent.

use crate::compare::Outcome;
use crate::echo::Got;
use crate::generate::{Case, Draft};

/// Fields that concern one connection only (RFC 9110 §7.6.1), and the one the generator names in `Connection`.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "upgrade", "x-hop", "transfer-encoding"];

/// What is wrong, in words.
pub(crate) fn check(case: &Case, ours: &Outcome) -> Result<(), String> {
    // One that may be sent twice is, to another connection, when the server closes the first without a word.
    let mut got = ours.raw.0.clone();
    got.dedup();
    if got.len() > case.requests.len() {
        return Err(format!("{} requests reached the server, of {} that were sent", got.len(), case.requests.len()));
    }
    for got in &got {
        unambiguous(got)?;
    }
    // Those before the odd one, in order, arrive as they were sent.
    let valid = case.requests.len() - 1 - case.oddities.len().min(1);
    for (sent, got) in case.requests[..valid].iter().zip(&got) {
        same(sent, got)?;
    }
    Ok(())
}

/// The echo server has read the head strictly already; this is what a lenient one might see in it.
fn unambiguous(got: &Got) -> Result<(), String> {
    if got.framing == "unreadable" {
        return Err(format!("the server cannot read {}", got.line));
    }
    let count = |wanted: &str| got.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(wanted)).count();
    let lengths = count("content-length") + count("transfer-encoding");
    if lengths > 1 {
        return Err(format!("{lengths} fields say how long the body is"));
    }
    if count("host") != 1 && (got.line.ends_with("HTTP/1.1") || count("host") > 1) {
        return Err(format!("{} Host fields", count("host")));
    }
    match got.line.split(' ').collect::<Vec<_>>().as_slice() {
        [_, _, "HTTP/1.1" | "HTTP/1.0"] => Ok(()),
        _ => Err(format!("an odd request line: {}", got.line)),
    }
}

/// Names keep their case and order, values their bytes.
fn same(sent: &Draft, got: &Got) -> Result<(), String> {
    let text = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
    let own = |name: &str| HOP_BY_HOP.contains(&name.to_ascii_lowercase().as_str());
    let wanted: Vec<(String, String)> = sent
        .fields
        .iter()
        .map(|field| (text(&field.name), text(&field.value).trim_matches([' ', '\t']).to_owned()))
        .filter(|(name, _)| !own(name))
        .collect();
    let arrived: Vec<(String, String)> = got.fields.iter().filter(|(name, _)| !own(name)).cloned().collect();
    if wanted != arrived {
        return Err(format!("sent {wanted:?}, arrived {arrived:?}"));
    }
    Ok(())
}
