//! The keys of session tickets (RFC 5077, RFC 8446 §4.6.1). They outlive plans: an apply costs no client its session.
//!
//! A ticket stands for what was proven when its session began, a client's certificate among it. So there are keys of
//! their own for each profile, and for what it asks of its clients: elsewhere its tickets can't be read, and the
//! handshake is a full one. Keys are made anew every six hours, and the ones before still open tickets for six more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::ProducesTickets;

use crate::plan::{Plan, Tls};

/// All keys of the process.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    /// Locked only while a plan is taken up.
    rings: Mutex<HashMap<Purpose, Arc<dyn ProducesTickets>>>,
}

/// What a ticket is good for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Purpose {
    profile: String,
    /// Whether a client must show a certificate, and who must have signed it.
    client_auth: Option<(bool, Vec<Vec<u8>>)>,
}

impl Purpose {
    fn of(plan: &Plan, tls: &Tls) -> Purpose {
        let auth = tls.client_auth.as_ref();
        let client_auth = auth.map(|auth| (auth.required, plan.authorities[auth.authority].certificates.clone()));
        Purpose { profile: tls.name.clone(), client_auth }
    }
}

impl Tickets {
    /// The keys for a profile of the plan.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub(super) fn ring(&self, plan: &Plan, tls: &Tls) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let purpose = Purpose::of(plan, tls);
        if let Some(ring) = rings.get(&purpose) {
            return Ok(Arc::clone(ring));
        }
        let ring = Ticketer::new()?;
        rings.insert(purpose, Arc::clone(&ring));
        Ok(ring)
    }

    /// Forgets the keys that no profile of the plan has a use for.
    pub(super) fn keep(&self, plan: &Plan) {
        let purposes: Vec<Purpose> = plan.tls.iter().map(|tls| Purpose::of(plan, tls)).collect();
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).retain(|purpose, _| purposes.contains(purpose));
    }
}
