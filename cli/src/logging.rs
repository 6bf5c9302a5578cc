//! Structured logs to standard error, as text or JSON.

use berth_dataplane::config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

use crate::Failure;

/// Starts logging as the configuration says.
pub(crate) fn start(log: &Log) -> Result<(), Failure> {
    // The HTTP/2 library warns of each peer that breaks a bound: lines that an attacker would make a
    // core write. The bounds are counted instead; whoever names the target sees its lines.
    let levels = format!("h2=error,{}", log.level.as_str());
    let filter = EnvFilter::try_new(levels).map_err(|error| format!("log.level: {error}"))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| error.to_string().into())
}
