//! A plot of waiting against offered load as an SVG: both axes logarithmic, nothing but lines, points and words.

use std::fmt::Write;

/// One line of the plot.
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) colour: &'static str,
    /// Requests a second, and milliseconds.
    pub(crate) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 120.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 55.0;

/// An axis from one power of ten to another.
struct Axis {
    least: f64,
    most: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let least = values.clone().fold(f64::INFINITY, f64::min).log10().floor();
        let most = values.fold(0.0, f64::max).log10().ceil();
        Self { least, most: if most > least { most } else { least + 1.0 }, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let part = (value.log10() - self.least) / (self.most - self.least);
        self.from + part * (self.to - self.from)
    }

    fn powers(&self) -> impl Iterator<Item = f64> {
        (self.least as i32..=self.most as i32).map(|power| 10_f64.powi(power))
    }
}

/// The whole file.
pub(crate) fn svg(title: &str, lines: &[Line]) -> String {
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let across = Axis::over(points().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let up = Axis::over(points().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<text x=\"{LEFT}\" y=\"22\" \
         font-size=\"14\">{title}</text>\n"
    );
    draw(&mut out, &across, &up, lines).expect("writing to a string cannot fail");
    out
}

fn draw(out: &mut String, across: &Axis, up: &Axis, lines: &[Line]) -> std::fmt::Result {
    let (bottom, end) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
    for power in across.powers() {
        let x = across.at(power);
        writeln!(out, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>")?;
        writeln!(out, "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{power}</text>", bottom + 18.0)?;
    }
    for power in up.powers() {
        let y = up.at(power);
        writeln!(out, "<path d=\"M{LEFT} {y:.1}H{end}\" stroke=\"#ddd\"/>")?;
        writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{power}</text>", LEFT - 8.0, y + 4.0)?;
    }
    let middle = (LEFT + end) / 2.0;
    writeln!(
        out,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">increments offered per second</text>",
        HEIGHT - 14.0
    )?;
    let y = (TOP + bottom) / 2.0;
    writeln!(out, "<text transform=\"translate(18 {y}) rotate(-90)\" text-anchor=\"middle\">p99, ms</text>")?;
    for line in lines {
        let at: Vec<(f64, f64)> = line.points.iter().map(|&(x, y)| (across.at(x), up.at(y))).collect();
        let Some((x, y)) = at.last() else { continue };
        let path: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        writeln!(
            out,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            path.join("L"),
            line.colour
        )?;
        for (x, y) in &at {
            writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{}\"/>", line.colour)?;
        }
        let (x, y, colour) = (x + 8.0, y + 4.0, line.colour);
        writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" fill=\"{colour}\">{}</text>", line.name)?;
    }
    writeln!(out, "</svg>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_lie_where_their_powers_of_ten_say() {
        let axis = Axis::over([20.0, 5_000.0].into_iter(), 0.0, 300.0);
        assert_eq!((axis.least, axis.most), (1.0, 4.0));
        assert_eq!([10.0, 100.0, 10_000.0].map(|value| axis.at(value)), [0.0, 100.0, 300.0]);
        let flat = Axis::over([100.0].into_iter(), 0.0, 300.0);
        assert_eq!(flat.at(100.0), 0.0);
    }

    #[test]
    fn every_line_is_drawn_with_its_points_and_its_name() {
        let line = |name| Line { name, colour: "black", points: vec![(10.0, 1.0), (100.0, 10.0)] };
        let svg = svg("t", &[line("one"), line("two")]);
        assert_eq!((svg.matches("<circle").count(), svg.matches("stroke-width").count()), (4, 2));
        assert!(svg.contains(">one<") && svg.contains(">two<") && svg.ends_with("</svg>\n"));
    }
}
