//! What a comparison leaves: points and searches in one file, tables and a picture made of it.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    Point, goals,
    machine::Machine,
    search::{self, Most},
    svg,
    table::{loads, markdown, memory, whole},
};
use crate::pipeline::Walk;

/// See the module text.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// Where and of what.
    pub machine: Machine,
    /// All rounds of all loads, failed ones included.
    pub points: Vec<Point>,
    /// All searches.
    pub most_calls: Vec<Most>,
    /// Our walk of a packet without a kernel.
    #[serde(default)]
    pub walks: Vec<Walk>,
}

impl Results {
    /// Nothing yet.
    #[must_use]
    pub fn here() -> Self {
        Results { machine: Machine::look(), ..Results::default() }
    }

    /// Whether nothing was measured: rounds that failed are nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let points = self.points.iter().filter(|point| point.failed.is_none()).count();
        points + self.most_calls.iter().filter(|search| search.calls.is_some()).count() + self.walks.len() == 0
    }

    /// The points of several runs as of one, when commit and machine were the same. Ratios are of one load, and each run has its loads whole.
    ///
    /// # Errors
    /// A run that cannot be read or is of something else, or a load that was measured in two.
    pub fn read(files: &[impl AsRef<Path>]) -> Result<Self, Box<dyn std::error::Error>> {
        let runs = files.iter().map(|file| Ok(serde_json::from_slice::<Results>(&fs::read(file)?)?));
        let mut runs = runs.collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?.into_iter();
        let mut all = runs.next().ok_or("no run is named")?;
        for run in runs {
            if !run.machine.is_same(&all.machine) {
                return Err(format!("of another machine or commit: {}", run.machine.command).into());
            }
            let load_of_both = loads(&run.points).into_iter().find(|load| loads(&all.points).contains(load));
            if let Some((name, calls, _)) = load_of_both {
                return Err(format!("{name} with {calls} calls was measured in two of the runs").into());
            }
            let is_searched = |one: &Most| all.most_calls.iter().any(|other| other.workload == one.workload);
            if let Some(one) = run.most_calls.iter().find(|one| is_searched(one)) {
                return Err(format!("most calls of {} were searched in two of the runs", one.workload).into());
            }
            all.machine.command = format!("{}; {}", all.machine.command, run.machine.command);
            all.points.extend(run.points);
            all.most_calls.extend(run.most_calls);
            if all.walks.is_empty() {
                all.walks = run.walks;
            }
        }
        Ok(all)
    }

    /// All tables, in Markdown.
    #[must_use]
    pub fn text(&self) -> String {
        let mut walks = String::new();
        if !self.walks.is_empty() {
            walks.push_str(
                "\nour walk of a packet without a kernel, ns:\n\n| load | open | seal | mean |\n|---|---|---|---|\n",
            );
        }
        for walk in &self.walks {
            walks.push_str(&format!(
                "| {} | {:.0} | {:.0} | {:.0} |\n",
                walk.load, walk.open_ns, walk.seal_ns, walk.mean_ns
            ));
        }
        [
            format!("{}\n\n", self.machine.line()),
            markdown(&self.points),
            memory(&self.points),
            whole(&self.points),
            search::markdown(&self.most_calls),
            walks,
            goals::markdown(self),
        ]
        .concat()
    }

    /// Leaves points.json, table.md and cost.svg in a folder. Files of before are replaced as a whole.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn save(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let write = |name: &str, bytes: &[u8]| {
            let fresh = folder.join(format!("{name}.new"));
            fs::write(&fresh, bytes)?;
            fs::rename(fresh, folder.join(name))
        };
        write("points.json", &serde_json::to_vec_pretty(self)?)?;
        write("table.md", self.text().as_bytes())?;
        write("cost.svg", svg::picture(&self.points).as_bytes())
    }
}
