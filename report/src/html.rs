//! `report.html`: one file without scripts or external resources, for light and dark displays. All external
//! text is escaped.

use jacobi_datasets::schema::eval_row::EvalSample;
use serde_json::{Map, Value};

use crate::chart::Chart;
use crate::content::{Content, listed};
use crate::details::details;
use crate::figures::Figure;
use crate::metrics::TrainingCurve;
use crate::passes::{Statistic, statistics};
use crate::samples::{Pair, caption};
use crate::table::Table;
use crate::text::escape_html;
use crate::training::evaluations;

const STYLE: &str = include_str!("style.css");

/// The whole report as one HTML page.
pub(crate) fn render(content: &Content) -> String {
    let rows = &content.results.rows;
    let title = content.title();
    let mut body = format!("<header><p>Jacobi evaluation</p><h1>{}</h1></header>\n", escape_html(&title));
    for headline in content.headlines() {
        if let Some(task) = headline.task {
            body += &format!("<h2>{}</h2>\n", escape_html(task));
        }
        if let Some(remark) = headline.remark {
            body += &format!("<p><strong>{}</strong></p>\n", escape_html(&remark));
        }
        body += &tiles(&headline.figures);
    }
    let changes = Table::before_and_after(rows);
    if !changes.rows.is_empty() {
        let costs = content.training.iter().map(|curve| format!("Training, {}", curve.cost()));
        body += &section("Before and after training", &(table(&changes) + &list(costs)));
    }
    body += &section("Results", &table(&Table::results(rows)));
    let tuning = list(content.tuning());
    if !tuning.is_empty() {
        body += &section("Tuning", &tuning);
    }
    body += &section("Charts", &figures(content.charts));
    let statistics: String = statistics(rows).iter().map(statistic).collect();
    if !statistics.is_empty() {
        body += &section("Statistics of the passes", &statistics);
    }
    if !content.training.is_empty() {
        body += &section("Training", &training(content.training, content.training_charts));
    }
    if !content.pairs.is_empty() {
        body += &section("Samples", &sample_pairs(&content.pairs));
    }
    body += &section("Method", &list(content.method()));
    let details: String = details(content.results).iter().map(statistic).collect();
    if !details.is_empty() {
        body += &section("Details", &details);
    }
    body += &section("Command", &format!("<pre>{}</pre>\n", escape_html(&content.results.command)));
    body += &section("Environment", &environment_list(&content.results.environment));
    page(&title, &body)
}

/// A complete page around `body`, which is HTML; `title` is text.
pub(crate) fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape_html(title)
    )
}

pub(crate) fn section(heading: &str, content: &str) -> String {
    format!("<section>\n<h2>{heading}</h2>\n{content}</section>\n")
}

pub(crate) fn tiles(figures: &[Figure]) -> String {
    if figures.is_empty() {
        return String::new();
    }
    let tile = |figure: &Figure| {
        format!(
            "<div class=\"tile\"><b>{}</b><span>{}</span><small>{}</small></div>\n",
            escape_html(&figure.value),
            escape_html(&figure.label),
            escape_html(&figure.note)
        )
    };
    format!("<div class=\"tiles\">\n{}</div>\n", figures.iter().map(tile).collect::<String>())
}

/// Cost and results of training, with its charts.
pub(crate) fn training(curves: &[TrainingCurve], charts: &[Chart]) -> String {
    let evaluations: String = evaluations(curves).iter().map(statistic).collect();
    list(curves.iter().map(TrainingCurve::summary)) + &figures(charts) + &evaluations
}

/// Empty without items.
fn list(items: impl IntoIterator<Item = String>) -> String {
    let items: String = items.into_iter().map(|item| format!("<li>{}</li>\n", escape_html(&item))).collect();
    if items.is_empty() { items } else { format!("<ul>\n{items}</ul>\n") }
}

fn table(table: &Table) -> String {
    let row = |tag: &str, cells: &[String]| {
        let cell = |(column, text): (usize, &String)| {
            let class = if column < table.left { "name" } else { "figure" };
            format!("<{tag} class=\"{class}\">{}</{tag}>", escape_html(text))
        };
        format!("<tr>{}</tr>\n", cells.iter().enumerate().map(cell).collect::<String>())
    };
    let header = row("th", &table.header);
    let rows: String = table.rows.iter().map(|cells| row("td", cells)).collect();
    format!(
        "<div class=\"scroll\"><table>\n<thead>{header}</thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}

fn statistic(statistic: &Statistic) -> String {
    format!("<h3>{}</h3>\n<p>{}</p>\n{}", statistic.heading, statistic.note, table(&statistic.table))
}

/// Charts side by side, those of each task under its name.
fn figures(charts: &[Chart]) -> String {
    let figure = |chart: &Chart| {
        let title = escape_html(&chart.title);
        format!(
            "<figure><figcaption>{title}</figcaption><div role=\"img\" aria-label=\"{title}\">{}</div></figure>\n",
            chart.svg
        )
    };
    let of_task = |charts: &[Chart]| {
        let task = charts[0].task.as_deref();
        let heading = task.map_or_else(String::new, |task| format!("<h3>{}</h3>\n", escape_html(task)));
        let figures: String = charts.iter().map(figure).collect();
        format!("{heading}<div class=\"charts\">\n{figures}</div>\n")
    };
    charts.chunk_by(|a, b| a.task == b.task).map(of_task).collect()
}

fn sample_pairs(pairs: &[Pair]) -> String {
    let mut text = String::from(
        "<p>The first prompts of the file, not chosen. Shading changes where a forward pass ended: each shade is what one \
         pass produced.</p>\n",
    );
    for Pair { before, after } in pairs {
        text += &format!(
            "<article>\n<p class=\"prompt\">{}</p>\n<div class=\"pair\">\n{}{}</div>\n</article>\n",
            escape_html(&before.prompt),
            answer(before),
            answer(after)
        );
    }
    text
}

fn answer(sample: &EvalSample) -> String {
    let pieces = if sample.pieces.is_empty() {
        escape_html(&sample.text)
    } else {
        let span = |(index, piece): (usize, &String)| {
            let shade = if index % 2 == 0 { "even" } else { "odd" };
            format!("<span class=\"{shade}\">{}</span>", escape_html(piece))
        };
        sample.pieces.iter().filter(|piece| !piece.is_empty()).enumerate().map(span).collect()
    };
    format!(
        "<div><h3>{} model, {}</h3><small>{}</small><div class=\"answer\">{pieces}</div></div>\n",
        sample.model_role.as_str(),
        escape_html(&sample.decoder_label()),
        escape_html(&caption(sample))
    )
}

fn environment_list(environment: &Map<String, Value>) -> String {
    let item = |(name, value): (&str, String)| {
        format!("<dt>{}</dt><dd>{}</dd>\n", escape_html(name), escape_html(&value))
    };
    format!("<dl>\n{}</dl>\n", listed(environment).map(item).collect::<String>())
}

#[cfg(test)]
mod tests;
