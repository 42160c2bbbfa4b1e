//! What `lbnode serve` answers at its control socket: what it knows, and that there is no pair.

use std::time::{Instant, SystemTime};

use proxy_core::control::TableAsk;
use tokio::sync::oneshot;

use super::{Done, Serve};
use crate::config;
use crate::control::{Call, Request, Response};
use crate::status::{Config, Log, Moment, Node, Pair, ProxyState, Role, Status, certificates, traffic};
use crate::tables;

impl Serve {
    pub(super) fn call(&mut self, Call { request, reply, .. }: Call) {
        let response = match request {
            Request::Status => {
                let (status, traffic, supervisor) = (self.status(), self.traffic.clone(), self.supervisor.clone());
                self.work.spawn(async move {
                    let status = Box::new(traffic.complete(status, &supervisor).await);
                    // A caller that left has no use for the answer.
                    let _ = reply.send(Response::Status { status });
                    Done::Nothing
                });
                return;
            }
            Request::ListShow { list } => {
                let lists = self.lists.clone();
                self.work.spawn(async move {
                    let _ = reply.send(lists.show(list.as_deref()).await);
                    Done::Nothing
                });
                return;
            }
            Request::ListChange { list, add, remove } => {
                let (lists, supervisor) = (self.lists.clone(), self.supervisor.clone());
                self.work.spawn(async move {
                    let _ = reply.send(lists.answer_change(&supervisor, list, &add, &remove).await);
                    Done::Nothing
                });
                return;
            }
            Request::TableShow { table, key } => return self.ask_table(TableAsk::Show { table, key }, reply),
            Request::TableClear { table, key } => return self.ask_table(TableAsk::Clear { table, key }, reply),
            Request::ConfigShow => Response::Config {
                revision: self.revision.number,
                digest: self.revision.digest(),
                text: config::without_passwords(&self.revision.text),
            },
            Request::ConfigApply { .. } => {
                let file = self.file.display();
                let message = format!("`lbnode serve` runs {file}: change it there, check it, and send SIGHUP");
                Response::Failed { message }
            }
            Request::Maintenance { .. } | Request::Failover { .. } | Request::PairRotate | Request::Events { .. } => {
                let message = format!("there is no `{}` here: `lbnode serve` belongs to no pair", request.name());
                Response::Failed { message }
            }
        };
        let _ = reply.send(response);
    }

    fn ask_table(&mut self, ask: TableAsk, reply: oneshot::Sender<Response>) {
        let supervisor = self.supervisor.clone();
        self.work.spawn(async move {
            let _ = reply.send(tables::answer(&supervisor, ask).await);
            Done::Nothing
        });
    }

    /// Everything but the counters of the proxy core.
    fn status(&self) -> Status {
        let now = SystemTime::now();
        let ago = |at: Instant| Moment::ago(at.elapsed(), now);
        let core = self.core.borrow().clone();
        let proxy = traffic::proxy(&core, self.last_exit.as_deref(), now);
        let fit = proxy.state == ProxyState::Ready;
        let node = Node {
            name: "serve".into(),
            this: true,
            role: Role::Alone,
            fit,
            reasons: if fit { Vec::new() } else { vec![format!("the proxy core is {}", core.state.name())] },
            priority: None,
            proxy: Some(proxy),
            revision: Some(self.revision.number),
            since: ago(self.started),
        };
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pair: Pair { name: self.cluster.name.clone(), redundant: None },
            degraded: Vec::new(),
            nodes: vec![node],
            vips: Vec::new(),
            sync: None,
            handoff: Vec::new(),
            config: Config {
                revision: self.revision.number,
                digest: self.revision.digest(),
                handoff_timeout: self.cluster.handoff_timeout.map_or("never".into(), config::duration::written),
                since: ago(self.applied_at),
            },
            frontends: traffic::frontends(&self.cluster),
            backends: traffic::backends(&self.cluster, self.lists.names()),
            certificates: certificates::of(&self.cluster, now),
            workers: Vec::new(),
            realtime: None,
            limits: traffic::limits(&core),
            dual_active: None,
            log: Log { dropped: crate::log::dropped(), sinks: Vec::new() },
            traffic_log: None,
            stick_tables: Vec::new(),
        }
    }
}
