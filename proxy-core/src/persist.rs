//! How a client stays with its server: what its cookie or the stick table says, a place at that very server, and what is
//! remembered of where it went.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::SystemTime;

use crate::http;
use crate::http::persist::Presented;
use crate::log_pipe::chain;
use crate::plan::{self, Action, Condition, Persist, Plan, PlanError, StickKey};
use crate::route::Route;
use crate::server::Scheme;
use crate::stick::{Key, ServerName, Table, Update};

/// A backend's stick table, and how that calls the backend's servers.
#[derive(Debug)]
pub(crate) struct Stuck {
    table: Arc<Table>,
    /// In the order of the plan.
    names: Box<[ServerName]>,
}

impl Stuck {
    pub(crate) fn of(backend: &plan::Backend, tables: &[Arc<Table>]) -> Option<Stuck> {
        let Some(Persist::Table(index)) = backend.persist else { return None };
        let table = Arc::clone(&tables[index]);
        let names = backend.servers.iter().map(|server| table.name(&server.name)).collect();
        Some(Stuck { table, names })
    }

    /// What the backend's clients are known by.
    pub(crate) fn key(&self) -> &StickKey {
        self.table.key()
    }
}

/// The tables of a plan, which was validated: those of `before`, and new ones for what changed.
pub(crate) fn tables(plan: &Plan, before: Option<&Scheme>) -> Result<Vec<Arc<Table>>, PlanError> {
    let table = |definition: &plan::StickTable| {
        let kept = before.and_then(|before| before.tables.iter().find(|table| table.fits(definition)));
        if let Some(table) = kept {
            return Ok(Arc::clone(table));
        }
        Table::new(definition).map(Arc::new).map_err(|error| {
            let problem = format!("there isn't the memory for {} entries: {}", definition.size, chain(&error));
            PlanError::new(format!("stick_table `{}`", definition.name), problem)
        })
    };
    let tables: Vec<Arc<Table>> = plan.stick_tables.iter().map(table).collect::<Result<_, _>>()?;
    // Only now: a plan that is refused changes nothing.
    tables.iter().zip(&plan.stick_tables).for_each(|(table, definition)| table.set_expire(definition.expire));
    Ok(tables)
}

/// Whether a frontend's rules or backends know clients by the server name in their hello.
pub(crate) fn keys_by_sni(plan: &Plan, frontend: &plan::Frontend) -> bool {
    fn asked(condition: &Condition, tables: &mut HashSet<usize>) {
        match condition {
            Condition::All(parts) | Condition::Any(parts) => parts.iter().for_each(|part| asked(part, tables)),
            Condition::Not(part) => asked(part, tables),
            Condition::Rate { table, .. } => {
                tables.insert(*table);
            }
            _ => {}
        }
    }
    let mut tables = HashSet::new();
    for rule in &frontend.rules {
        rule.when.iter().for_each(|when| asked(when, &mut tables));
        if let Action::Track(table) | Action::IncGpc0(table) = rule.action {
            tables.insert(table);
        }
    }
    tables.extend(frontend.leads_to().filter_map(|backend| match plan.backends[backend].persist {
        Some(Persist::Table(table)) => Some(table),
        _ => None,
    }));
    tables.into_iter().any(|table| plan.stick_tables[table].key == StickKey::Sni)
}

/// What is known of where a client belongs.
#[derive(Debug, Default)]
pub(crate) enum Affinity {
    /// Anywhere.
    #[default]
    None,
    /// Where the backend's stick table says.
    Table {
        key: Key,
        /// The server that the table has for it now.
        server: Option<usize>,
    },
    /// Where its cookie says.
    Cookie {
        presented: Presented,
        /// The server that its request goes to.
        server: Option<usize>,
    },
}

impl Affinity {
    /// The client has this key in the backend's table; `None`: it has none.
    pub(crate) fn by_key(key: Option<Key>) -> Affinity {
        key.map_or(Affinity::None, |key| Affinity::Table { key, server: None })
    }

    /// Of a request whose head is ready to go out to a server of the backend; its cookie is taken from it.
    pub(crate) fn of_request(route: &Route, backend: usize, key: Option<Key>, head: &mut Vec<u8>) -> Affinity {
        let plan = route.backend(backend);
        let Some(Persist::Cookie(cookie)) = &plan.persist else { return Affinity::by_key(key) };
        let may_stay = |server| route.may_stay(backend, server);
        let presented = http::persist::request(head, cookie, &plan.servers, may_stay, seconds());
        Affinity::Cookie { presented, server: None }
    }

    /// Has the cookie in an answer whose head is ready to go out.
    pub(crate) fn set_cookie(&self, route: &Route, backend: usize, head: &mut Vec<u8>) {
        let Affinity::Cookie { presented, server: Some(server) } = self else { return };
        let plan = route.backend(backend);
        let Some(Persist::Cookie(cookie)) = &plan.persist else { return };
        http::persist::response(head, cookie, (*server, &plan.servers[*server]), presented, seconds());
    }

    /// The server that the client belongs to, if it can be used.
    pub(crate) fn wanted(&mut self, route: &Route, backend: usize) -> Option<usize> {
        match self {
            Affinity::None => None,
            Affinity::Cookie { presented, .. } => presented.server,
            Affinity::Table { key, server } => {
                let stuck = route.scheme.stuck[backend].as_ref()?;
                let name = stuck.table.server(key, stuck.table.now())?;
                *server = stuck.names.iter().position(|known| *known == name);
                server.filter(|server| route.may_stay(backend, *server))
            }
        }
    }

    /// The client is connected to this server: there it stays.
    pub(crate) fn settle(&mut self, route: &Route, backend: usize, reached: usize) {
        match self {
            Affinity::None => {}
            Affinity::Cookie { server, .. } => *server = Some(reached),
            Affinity::Table { key, server } => {
                let Some(stuck) = &route.scheme.stuck[backend] else { return };
                // Whom it was lent to keeps nothing: its own server may come back.
                if *server != Some(reached) && route.backend(backend).servers[reached].stick {
                    stuck.table.update(key, &[Update::Server(stuck.names[reached])], stuck.table.now());
                    *server = Some(reached);
                }
            }
        }
    }
}

/// Since 1970.
fn seconds() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs())
}

impl Route {
    /// Whether a client that belongs to this server may go there: draining is no reason not to.
    pub(crate) fn may_stay(&self, backend: usize, server: usize) -> bool {
        self.backend(backend).servers[server].stick && self.server_live(backend, server).is_usable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::valid;
    use crate::plan::{Rule, StickCounter, StickTable};
    use std::time::Duration;

    #[test]
    fn a_hello_is_looked_at_where_a_table_of_server_names_is_used() {
        let table = |key| StickTable {
            name: "t".into(),
            key,
            size: 1,
            expire: Duration::from_secs(1),
            counters: vec![StickCounter::Gpc0],
        };
        let rule = |when, action| vec![Rule { when, action }];
        let rate = Condition::Rate { table: 0, counter: StickCounter::Gpc0, above: 0 };
        let nested = Condition::Any(vec![Condition::Not(Box::new(rate))]);
        for (key, asks) in [(StickKey::Sni, true), (StickKey::Source { v4: 32, v6: 128 }, false)] {
            let mut plan = valid();
            plan.stick_tables = vec![table(key)];
            assert!(!keys_by_sni(&plan, &plan.frontends[0]), "it uses no table");
            for rules in [
                rule(None, Action::Track(0)),
                rule(None, Action::IncGpc0(0)),
                rule(Some(nested.clone()), Action::Reject { reset: true }),
            ] {
                let mut plan = plan.clone();
                plan.frontends[0].rules = rules;
                assert_eq!(keys_by_sni(&plan, &plan.frontends[0]), asks);
            }
            plan.backends[0].persist = Some(Persist::Table(0));
            assert!(!keys_by_sni(&plan, &plan.frontends[0]), "it leads to the other backend");
            plan.frontends[0].rules = rule(None, Action::UseBackend(0));
            assert_eq!(keys_by_sni(&plan, &plan.frontends[0]), asks);
        }
    }
}
