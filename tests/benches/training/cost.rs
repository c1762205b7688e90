//! What a row costs by its tokens, drawn: a straight line where cost is linear.

use std::path::Path;

use plotters::prelude::*;

/// Seconds of one row by its packed tokens, in one way of training.
pub struct Line {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

const COLORS: [RGBColor; 5] = [
    RGBColor(0x25, 0x63, 0xeb),
    RGBColor(0xd9, 0x77, 0x06),
    RGBColor(0xdb, 0x27, 0x77),
    RGBColor(0x94, 0xa3, 0xb8),
    RGBColor(0x05, 0x96, 0x69),
];

/// Draws `lines` into the SVG file `path`.
pub fn draw(path: &Path, lines: &[Line]) -> anyhow::Result<()> {
    let points = lines.iter().flat_map(|line| &line.points);
    let (tokens, seconds) = points.fold((0.0f64, 0.0f64), |most, at| (most.0.max(at.0), most.1.max(at.1)));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (640, 400)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption("Seconds of a training step over one row", ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..tokens * 1.05, 0.0..seconds * 1.05)?;
        chart
            .configure_mesh()
            .x_desc("packed tokens")
            .y_desc("seconds")
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (line, color) in lines.iter().zip(COLORS) {
            chart
                .draw_series(LineSeries::new(line.points.clone(), color.stroke_width(2)).point_size(3))?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .border_style(TRANSPARENT)
            .draw()?;
        area.present()?;
    }
    Ok(jacobi_datasets::atomic::write_atomic(path, |out| std::io::Write::write_all(out, svg.as_bytes()))?)
}
