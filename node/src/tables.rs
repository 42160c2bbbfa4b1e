//! Stick tables at run time: asked of the proxy core, which alone has them.

use proxy_core::control::{TableAnswer, TableAsk};

use crate::control::Response;
use crate::supervisor::Supervisor;

/// What [`crate::control::Request::TableShow`] and [`crate::control::Request::TableClear`] ask for.
pub(crate) async fn answer(supervisor: &Supervisor, ask: TableAsk) -> Response {
    let failed = |message: String| Response::Failed { message };
    let (TableAsk::Show { table, key } | TableAsk::Clear { table, key }) = ask.clone();
    match supervisor.table(ask).await {
        None => Response::TryAgain { message: "the proxy core does not answer".into() },
        Some(TableAnswer::NoTable(tables)) if tables.is_empty() => {
            failed(format!("there is no stick table `{table}`, nor any other in the running configuration"))
        }
        Some(TableAnswer::NoTable(tables)) => {
            failed(format!("there is no stick table `{table}`; there are `{}`", tables.join("`, `")))
        }
        Some(TableAnswer::BadKey) => {
            let key = key.unwrap_or_default();
            failed(format!("`{key}` is no key of the stick table `{table}`, which has addresses"))
        }
        Some(TableAnswer::Entries(entries)) => Response::Table { table, entries },
        Some(TableAnswer::Cleared(cleared)) => Response::TableCleared { table, cleared },
    }
}
