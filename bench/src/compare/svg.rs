//! Cost per packet over the number of calls, drawn.

use std::fmt::Write as _;

use super::{
    Point,
    table::{cost, loads, systems},
};

const PANEL_WIDTH: f64 = 360.0;
const PANEL_HEIGHT: f64 = 260.0;
const MARGIN: (f64, f64) = (64.0, 44.0);
const LEGEND_HEIGHT: f64 = 34.0;

/// Colours that differ for those too who tell red from green badly (Okabe and Ito), each with a mark of its own.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// The picture: a panel for each workload that has more than one size.
#[must_use]
pub fn picture(points: &[Point]) -> String {
    let all = loads(points);
    let mut names: Vec<&str> = Vec::new();
    for (name, ..) in all.iter().filter(|(.., silent)| *silent == 0) {
        let sizes = all.iter().filter(|(other, _, silent)| other == name && *silent == 0).count();
        if sizes > 1 && !names.contains(name) {
            names.push(name);
        }
    }
    let systems = systems(points);
    let width = (PANEL_WIDTH + MARGIN.0) * names.len().max(1) as f64 + 24.0;
    let height = PANEL_HEIGHT + 2.0 * MARGIN.1 + LEGEND_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for (at, name) in names.iter().enumerate() {
        let left = MARGIN.0 + at as f64 * (PANEL_WIDTH + MARGIN.0);
        panel(&mut svg, points, name, &systems, left);
    }
    let mut x = MARGIN.0;
    for (at, system) in systems.iter().enumerate() {
        let y = height - 14.0;
        mark(&mut svg, at, x, y - 4.0);
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{y:.1}\">{}</text>", x + 10.0, escape(system));
        x += 34.0 + 7.5 * system.len() as f64;
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, points: &[Point], name: &str, systems: &[&str], left: f64) {
    let sizes: Vec<u32> = loads(points)
        .into_iter()
        .filter(|&(other, _, silent)| other == name && silent == 0)
        .map(|(_, calls, _)| calls)
        .collect();
    let costs = |system: &str| -> Vec<(u32, f64)> {
        sizes.iter().filter_map(|&calls| Some((calls, cost(points, (name, calls, 0), system)?))).collect()
    };
    let most = systems.iter().flat_map(|system| costs(system)).map(|(_, ns)| ns).fold(1000.0, f64::max);
    let step = [1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0].into_iter().find(|step| most / step <= 6.0);
    let step = step.unwrap_or(50_000.0);
    let top_ns = (most / step).ceil() * step;
    let right_calls = f64::from(sizes.iter().copied().max().unwrap_or(1)) * 1.05;
    let x = |calls: u32| left + f64::from(calls) / right_calls * PANEL_WIDTH;
    let y = |ns: f64| MARGIN.1 + PANEL_HEIGHT * (1.0 - ns / top_ns);
    let (bottom, right) = (y(0.0), left + PANEL_WIDTH);
    let _ = writeln!(
        svg,
        "<text x=\"{left:.1}\" y=\"24\" font-weight=\"bold\">{}: CPU ns per packet over calls</text>",
        escape(name)
    );
    let mut ns = 0.0;
    while ns <= top_ns {
        let at = y(ns);
        let _ = writeln!(
            svg,
            "<path d=\"M{left:.1} {at:.1}H{right:.1}\" stroke=\"#dddddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{ns:.0}</text>",
            left - 6.0,
            at + 4.0
        );
        ns += step;
    }
    for &calls in &sizes {
        let at = x(calls);
        let _ = writeln!(
            svg,
            "<path d=\"M{at:.1} {bottom:.1}v4\" stroke=\"#333333\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{calls}</text>",
            bottom + 18.0
        );
    }
    let _ = writeln!(svg, "<path d=\"M{left:.1} {bottom:.1}H{right:.1}\" stroke=\"#333333\"/>");
    for (at, system) in systems.iter().enumerate() {
        let costs = costs(system);
        let path: Vec<String> = costs.iter().map(|&(calls, ns)| format!("{:.1} {:.1}", x(calls), y(ns))).collect();
        if path.len() > 1 {
            let colour = COLOURS[at % COLOURS.len()];
            let _ =
                writeln!(svg, "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L"));
        }
        for (calls, ns) in costs {
            mark(svg, at, x(calls), y(ns));
        }
    }
}

/// Circle, square, triangle or diamond, in the colour of the `at`-th system.
fn mark(svg: &mut String, at: usize, x: f64, y: f64) {
    let path = match at % 4 {
        0 => format!("M{:.1} {y:.1}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", x - 4.0),
        1 => format!("M{:.1} {:.1}h8v8h-8z", x - 4.0, y - 4.0),
        2 => format!("M{x:.1} {:.1}l5 9h-10z", y - 5.0),
        _ => format!("M{x:.1} {:.1}l5 5l-5 5l-5 -5z", y - 5.0),
    };
    let _ = writeln!(svg, "<path d=\"{path}\" fill=\"{}\"/>", COLOURS[at % COLOURS.len()]);
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{super::table::tests::point, *};

    #[test]
    fn a_line_for_each_system_and_none_for_points_that_do_not_count() {
        let points = [
            point("epoll", 100, 0, 5000.0, 0.0),
            point("epoll", 500, 0, 4000.0, 0.0),
            point("a<b", 100, 0, 9000.0, 0.0),
            point("a<b", 500, 0, 9000.0, 0.5),
        ];
        let svg = picture(&points);
        assert_eq!(svg.matches("stroke-width=\"2\"").count(), 1, "{svg}");
        assert_eq!(svg.matches(COLOURS[1]).count(), 2, "a mark in the legend and one point");
        assert!(svg.contains("a&lt;b") && svg.trim_end().ends_with("</svg>"));
    }
}
