//! What is no mistake, and will hurt: some day, or clients that are stricter than others. Whether a time has come is asked
//! when it is told, so a running node warns of what was sound when it was read.

use super::chain::Ordered;
use super::facts::Facts;
use super::ocsp::Answer;
use crate::status::rfc3339;

/// How long before its end a certificate is warned of, in seconds. Those of 90 days are renewed after 60.
const SOON: i64 = 14 * DAY;
const DAY: i64 = 86_400;

/// Something that will hurt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// It is so.
    Always(String),
    /// It is so outside of these times.
    Validity { what: String, not_before: i64, not_after: i64 },
    /// It is so from then on.
    Stale { path: String, until: i64 },
}

impl Warning {
    /// In words, if it is so at that time, in seconds since 1970.
    pub fn said(&self, now: i64) -> Option<String> {
        match &self.0 {
            Kind::Always(text) => Some(text.clone()),
            Kind::Validity { what, not_before, .. } if now < *not_before => Some(format!(
                "{what} is not valid before {}; clients refuse it until then (is this clock right?)",
                time(*not_before)
            )),
            Kind::Validity { what, not_after, .. } if now > *not_after => {
                Some(format!("{what} expired on {}; clients refuse it: get a new one", time(*not_after)))
            }
            Kind::Validity { what, not_after, .. } if not_after - now < SOON => {
                let days = (not_after - now) / DAY;
                Some(format!("{what} expires in {days} days, on {}: renew it", time(*not_after)))
            }
            Kind::Stale { path, until } if now > *until => Some(format!(
                "the OCSP response of {path} was good until {}; it is not stapled: fetch a new one and apply again",
                time(*until)
            )),
            Kind::Validity { .. } | Kind::Stale { .. } => None,
        }
    }

    /// What is so whatever the time.
    pub(crate) fn always(text: String) -> Warning {
        Warning(Kind::Always(text))
    }

    /// About the times of one certificate.
    pub fn of(facts: &Facts) -> Warning {
        let what = format!("the certificate of {}", facts.called());
        Warning(Kind::Validity { what, not_before: facts.not_before, not_after: facts.not_after })
    }

    pub(super) fn ocsp(path: &str, answer: &Answer) -> Warning {
        if answer.revoked {
            return Warning(Kind::Always(format!(
                "the OCSP response of {path} says that the certificate is revoked: get a new one"
            )));
        }
        match answer.until {
            Some(until) => Warning(Kind::Stale { path: path.to_owned(), until }),
            None => Warning(Kind::Always(format!(
                "the OCSP response of {path} does not say how long it is good; some clients take it for stale"
            ))),
        }
    }

    pub(super) fn passed_over(other: &Facts) -> Warning {
        let until = time(other.not_after);
        Warning(Kind::Always(format!(
            "the certificate with serial {} (until {until}) has the same key; the one that is valid longest is used",
            other.serial
        )))
    }

    pub(super) fn left_out(path: &str, facts: &Facts, why: &str) -> Warning {
        Warning(Kind::Always(format!("{path}: the certificate of {} is not used: {why}", facts.called())))
    }
}

/// What there is to say of a chain; the certificates up to `given` were named for this one, others only complete it.
pub(super) fn of_chain(leaf: usize, pool: &[Facts], ordered: &Ordered, given: usize) -> Vec<Warning> {
    let used = || std::iter::once(leaf).chain(ordered.intermediates.iter().copied());
    let mut warnings: Vec<Warning> = used().map(|index| Warning::of(&pool[index])).collect();
    let always = Warning::always;
    let own = &pool[leaf];
    if own.names.is_empty() {
        warnings.push(always(format!(
            "the certificate of {} has no subjectAltName; most clients look at nothing else and refuse it",
            own.called()
        )));
    }
    if let Some(open) = ordered.open {
        let last = &pool[open];
        let from = last.issuer_url.as_ref().map_or(String::new(), |url| format!(" (it can be got at {url})"));
        warnings.push(always(format!(
            "the chain ends with {}, whose issuer {} is missing{from}: if that is an intermediate, clients refuse the certificate; \
             add it to the file, name it with `chain`, or `lbnode cert import` it. If it is a root, name it in a [ca.NAME]",
            last.called(),
            last.issuer
        )));
    }
    let sent = |index: &usize| used().any(|used| pool[used].der == pool[*index].der);
    let same_key = |index: &usize| pool[*index].public_key == own.public_key;
    let unused = (0..given).filter(|index| !sent(index) && ordered.root != Some(*index) && !same_key(index));
    // One in the wrong file is a hint; a whole bundle of roots is none.
    let unused: Vec<usize> = unused.filter(|index| !pool[*index].self_issued()).collect();
    warnings.extend(unused.iter().take(3).map(|index| {
        always(format!("the certificate of {} is no part of the chain and not sent", pool[*index].called()))
    }));
    warnings
}

/// Seconds since 1970 as people read them.
pub(crate) fn time(at: i64) -> String {
    let at = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(at).unwrap_or(0));
    let text = rfc3339(at);
    text.get(..16).map_or_else(|| text.clone(), |minute| minute.replace('T', " ") + " UTC")
}
