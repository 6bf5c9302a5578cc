//! The report as text: tables in Markdown, so that what the terminal shows can go into `docs/PERFORMANCE.md` as
//! it is. The JSON is [`SuiteReport`] itself, with every attempt of every round.

use std::fmt::{self, Write};

use crate::cpu::Standing;
use crate::figure::{Bar, Judged, Spread, Verdict};
use crate::run::{FigureReport, Run, Side, SuiteReport};

/// The whole report.
pub(crate) fn text(report: &SuiteReport) -> String {
    let mut out = String::new();
    write_all(&mut out, report).expect("writing to a string cannot fail");
    out
}

fn write_all(out: &mut String, report: &SuiteReport) -> fmt::Result {
    write_verdicts(out, report)?;
    write_rounds(out, report)?;
    write_circumstances(out, report)?;
    for side in &report.sides {
        write_side(out, side)?;
    }
    Ok(())
}

fn write_verdicts(out: &mut String, report: &SuiteReport) -> fmt::Result {
    writeln!(out, "| figure | unit | ours | theirs | ratio (min to max) | bar | aim | verdict |")?;
    writeln!(out, "|---|---|--:|--:|--:|--:|--:|---|")?;
    for figure in &report.figures {
        let (judged, bar) = (&figure.figure.judged, figure.figure.bar);
        let aim = figure.figure.aim.map_or_else(|| "".to_owned(), number);
        writeln!(
            out,
            "| {} | {} | {} {} | {} {} | {} | {} | {aim} | {} |",
            figure.figure.title,
            figure.figure.unit,
            figure.our_name,
            median(figure.ours),
            figure.their_name,
            median(figure.theirs),
            figure.ratio.map_or_else(|| "—".to_owned(), spread),
            bar_text(*judged, bar, figure.our_name),
            verdict_text(figure),
        )?;
    }
    writeln!(out)
}

/// What both CPUs did, run by run: the median hides it, and it is what makes a number credible.
fn write_rounds(out: &mut String, report: &SuiteReport) -> fmt::Result {
    writeln!(
        out,
        "| run | value | server busy | client busy | server CPU s | client CPU s | foreign | detail |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|---|")?;
    for figure in &report.figures {
        for (index, round) in figure.rounds.iter().enumerate() {
            for (name, runs) in [(figure.our_name, &round.ours), (figure.their_name, &round.theirs)] {
                for run in runs {
                    writeln!(out, "| {} {} {name} | {} |", figure.figure.key, index + 1, run_cells(run))?;
                }
            }
        }
    }
    writeln!(out)
}

fn run_cells(run: &Run) -> String {
    let cpu = run.usage.map_or_else(
        || " | | | |".to_owned(),
        |usage| {
            format!(
                "{} | {} | {:.2} | {:.2} | {}",
                percent(usage.server_busy),
                percent(usage.client_busy),
                usage.server_cpu_s,
                usage.client_cpu_s,
                percent(usage.server_foreign)
            )
        },
    );
    let mut notes: Vec<String> = match &run.standing {
        Standing::Counted => Vec::new(),
        Standing::Unsaturated(_) => vec!["**unsaturated**".to_owned()],
        Standing::NotCounted(reason) => {
            vec![format!("**not counted: {}**", reason.replace('\n', " ").replace('|', "/"))]
        }
    };
    notes.extend(
        run.detail
            .iter()
            .filter(|(_, value)| **value != 0.0)
            .map(|(name, value)| format!("{name} {}", number(*value))),
    );
    format!("{} | {cpu} | {}", number(run.value), notes.join(", "))
}

fn write_circumstances(out: &mut String, report: &SuiteReport) -> fmt::Result {
    let (machine, plan) = (&report.machine, &report.plan);
    writeln!(
        out,
        "Machine: {}{}, {} CPUs, {} GiB; {}, Linux {}. Server on CPU {} (shares its core with: {}), client on CPU {}.",
        machine.cpu,
        if machine.virtual_machine { " (virtual)" } else { "" },
        machine.cpus,
        machine.memory_gib,
        machine.system,
        machine.kernel,
        plan.cpus.server,
        machine.server_siblings,
        plan.cpus.client,
    )?;
    writeln!(out, "{} rounds, {} s each, fresh servers for each run.", plan.rounds, plan.seconds)?;
    for (tool, version) in &report.tools {
        writeln!(out, "{tool}: {version}")?;
    }
    for command in commands(report) {
        writeln!(out, "    {command}")?;
    }
    for warning in &report.warnings {
        writeln!(out, "Warning: {warning}")?;
    }
    writeln!(out)
}

/// The load commands as they ran in the first round.
fn commands(report: &SuiteReport) -> Vec<&str> {
    report
        .figures
        .iter()
        .filter_map(|figure| figure.rounds.first()?.ours.last())
        .map(|run| run.command.as_str())
        .filter(|command| !command.is_empty())
        .collect()
}

fn write_side(out: &mut String, side: &Side) -> fmt::Result {
    let answers = side.answers.iter().map(|(protocol, answer)| {
        format!("{} + {} bytes over {}", answer.head_bytes, answer.body_bytes, protocol.name())
    });
    writeln!(
        out,
        "{} ({}), answers {}, started as `{}` with:\n\n```\n{}```\n",
        side.name,
        side.version,
        answers.collect::<Vec<_>>().join(", "),
        side.command,
        side.configuration
    )
}

fn verdict_text(figure: &FigureReport) -> String {
    let unsaturated = figure.rounds.iter().flat_map(|round| [round.ours.last(), round.theirs.last()]);
    let unsaturated = unsaturated.flatten().any(|run| matches!(run.standing, Standing::Unsaturated(_)));
    let mark = if unsaturated { " (unsaturated)" } else { "" };
    match &figure.verdict {
        Verdict::Met if figure.aim_reached => format!("met, aim reached{mark}"),
        Verdict::Met => format!("met{mark}"),
        Verdict::Missed => format!("**missed**{mark}"),
        Verdict::WithinNoise => format!("within the noise{mark}"),
        Verdict::Told => format!("no bar{mark}"),
        Verdict::NotCounted(reason) => {
            let shown = figure.uncounted_ratio.map(|all| format!("; uncounted ratio {}", spread(all)));
            format!("not counted: {reason}{}", shown.unwrap_or_default())
        }
    }
}

/// The bar as people write it.
pub(crate) fn bar_text(judged: Judged, bar: Bar, ours: &str) -> String {
    let whose = if judged == Judged::Ours { format!("{ours} ") } else { String::new() };
    match bar {
        Bar::AtLeast(bar) => format!("{whose}≥ {}", number(bar)),
        Bar::AtMost(bar) => format!("{whose}≤ {}", number(bar)),
        Bar::NearOne(tolerance) => format!("1 ± {tolerance}"),
        Bar::Told => "none".to_owned(),
    }
}

fn spread(spread: Spread) -> String {
    format!("{:.3} ({:.3} to {:.3})", spread.median, spread.min, spread.max)
}

fn median(spread: Option<Spread>) -> String {
    spread.map_or_else(|| "—".to_owned(), |spread| number(spread.median))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// As many digits as mean something: whole numbers when large, two places when small.
fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "—".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_as_many_digits_as_they_deserve() {
        assert_eq!([123_456.7, 12.34, 0.857, -3.0].map(number), ["123457", "12.3", "0.86", "-3.00"]);
        assert_eq!(number(f64::NAN), "—");
    }

    #[test]
    fn bars_read_as_a_sentence() {
        assert_eq!(bar_text(Judged::Ratio, Bar::AtLeast(0.8), "berth"), "≥ 0.80");
        assert_eq!(bar_text(Judged::Ours, Bar::AtMost(4096.0), "berth"), "berth ≤ 4096");
    }
}
