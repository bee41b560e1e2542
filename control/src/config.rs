//! Settings: one table ([`table::KEYS`]) that drives the parser, `--check` and the page for operators.
//!
//! Owns what is allowed and where a value came from. It opens no socket except for `--check`, which names ports that cannot be
//! bound, and reads nothing but the settings file and the machine's own addresses.

mod check;
mod gateway;
pub mod machine;
pub mod table;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use gangway_shared::settings::{Origin, Port, Settings, SettingsError};
use thiserror::Error;

pub use check::{report, unbindable_ports};
pub use table::LocalAddress;
use table::{KEYS, Key, Kind, TRUNK_KEYS, Value};

use crate::{
    gateway::trunks::{DEFAULT_TRUNK, TrunkMatch},
    sip::transaction::Timers,
};

/// Why the settings cannot be used. It stops the start.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The settings file cannot be read.
    #[error("{file}: {source}")]
    Read {
        /// Name of the file.
        file: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// A value or the file's syntax.
    #[error(transparent)]
    Settings(#[from] SettingsError),
}

/// The command line, as far as settings go.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--set`, each `key=value`.
    pub sets: Vec<String>,
    /// `--demo`: built-in settings below the file and the sets.
    pub demo: bool,
}

/// All settings, parsed and checked.
#[derive(Clone, Debug)]
pub struct Config {
    settings: Settings,
    values: BTreeMap<&'static str, Value>,
    sources: Sources,
    demo_sets: Vec<String>,
}

impl Config {
    /// Reads the file and the sets.
    ///
    /// # Errors
    /// [`ConfigError`], naming file, line, key, value and what is allowed.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        let (name, text) = match &sources.file {
            None => (String::new(), String::new()),
            Some(path) => {
                let file = path.display().to_string();
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|source| ConfigError::Read { file: file.clone(), source })?;
                (file, text)
            }
        };
        Self::parse(&name, &text, sources)
    }

    /// Reads `text` as the content of the file `name`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(name: &str, text: &str, sources: Sources) -> Result<Self, ConfigError> {
        let mut settings = Settings::parse(name, text, &sources.sets)?;
        let mut demo_sets = Vec::new();
        if sources.demo {
            let given = settings.clone();
            demo_sets = demo_settings().into_iter().filter(|(key, _)| given.get(key).is_none()).map(join).collect();
            let all: Vec<String> = demo_sets.iter().chain(&sources.sets).cloned().collect();
            settings = Settings::parse(name, text, &all)?;
        }
        let mut values = BTreeMap::new();
        for key in KEYS {
            values.insert(key.name, read(&settings, key)?);
        }
        let config = Config { settings, values, sources, demo_sets };
        config.check_trunks()?;
        config.check_pairs()?;
        Ok(config)
    }

    /// Keys that somebody set and nobody knows.
    pub fn unknown_keys(&self) -> impl Iterator<Item = (&str, Origin)> {
        let unknown = |key: &str| table::find(key).is_none() && !key.starts_with("trunk.");
        self.settings.iter().filter(move |(key, _)| unknown(key)).map(|(key, setting)| (key, setting.origin.clone()))
    }

    /// Arguments that give a dataplane the same settings.
    #[must_use]
    pub fn dataplane_arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        if let Some(file) = &self.sources.file {
            arguments.extend(["--config".to_owned(), file.display().to_string()]);
        }
        let socket = join(("dataplane_socket".to_owned(), self.dataplane_socket().display().to_string()));
        for set in self.demo_sets.iter().chain(&self.sources.sets).chain([&socket]) {
            arguments.extend(["--set".to_owned(), set.clone()]);
        }
        arguments
    }

    /// Whether `--demo` was asked.
    #[must_use]
    pub const fn is_demo(&self) -> bool {
        self.sources.demo
    }

    fn value(&self, key: &str) -> &Value {
        self.values.get(key).expect("every key the program reads is in the table")
    }

    /// A number of the table.
    ///
    /// # Panics
    /// When `key` is not a number of the table with a default.
    #[must_use]
    pub fn number(&self, key: &str) -> u64 {
        let Value::Number(number) = self.value(key) else { panic!("{key} is no number with a default") };
        *number
    }

    /// A number of the table as a count.
    ///
    /// # Panics
    /// As [`Config::number`].
    #[must_use]
    pub fn count(&self, key: &str) -> usize {
        usize::try_from(self.number(key)).expect("the table's counts fit the machine's word")
    }

    /// A number of milliseconds of the table.
    ///
    /// # Panics
    /// As [`Config::number`].
    #[must_use]
    pub fn millis(&self, key: &str) -> Duration {
        Duration::from_millis(self.number(key))
    }

    /// A number of seconds of the table.
    ///
    /// # Panics
    /// As [`Config::number`].
    #[must_use]
    pub fn seconds(&self, key: &str) -> Duration {
        Duration::from_secs(self.number(key))
    }

    /// A switch of the table.
    ///
    /// # Panics
    /// When `key` is not a switch of the table.
    #[must_use]
    pub fn boolean(&self, key: &str) -> bool {
        let Value::Bool(value) = self.value(key) else { panic!("{key} is no switch") };
        *value
    }

    /// How long media may be silent before a call ends; `None`: for ever.
    #[must_use]
    pub fn activity_timeout(&self) -> Option<Duration> {
        match *self.value("rtp_activity_detecting") {
            Value::Activity(true, seconds) => {
                Some(seconds.map_or_else(|| self.millis("rtp_activity_timeout_ms"), Duration::from_secs))
            }
            _ => None,
        }
    }

    /// A text of the table; empty when nobody set it.
    ///
    /// # Panics
    /// When `key` is not a text of the table.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        match self.value(key) {
            Value::Text(text) => text,
            Value::Unset => "",
            _ => panic!("{key} is no text"),
        }
    }

    /// A list of words of the table.
    ///
    /// # Panics
    /// When `key` is not a list of the table.
    #[must_use]
    pub fn list(&self, key: &str) -> &[String] {
        match self.value(key) {
            Value::List(words) => words,
            Value::Unset => &[],
            _ => panic!("{key} is no list"),
        }
    }

    /// A port of the table.
    ///
    /// # Panics
    /// When `key` is not a port of the table.
    #[must_use]
    pub fn port(&self, key: &str) -> Port {
        let Value::Port(port) = self.value(key) else { panic!("{key} is no port") };
        *port
    }

    /// A port of the table that 0 turns off.
    ///
    /// # Panics
    /// As [`Config::port`].
    #[must_use]
    pub fn port_unless_off(&self, key: &str) -> Option<Port> {
        Some(self.port(key)).filter(|&port| port != Port::Fixed(0))
    }

    fn addresses(&self, key: &str) -> &[LocalAddress] {
        match self.value(key) {
            Value::Addresses(addresses) => addresses,
            _ => &[],
        }
    }

    /// Addresses for SDP, Via and Contact, best first. Never empty.
    #[must_use]
    pub fn ip(&self) -> Vec<LocalAddress> {
        match self.addresses("ip") {
            [] => {
                let local = machine::default_route_address().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
                vec![LocalAddress { local, advertised: local }]
            }
            addresses => addresses.to_vec(),
        }
    }

    /// Addresses to bind.
    #[must_use]
    pub fn ip_local(&self) -> Vec<IpAddr> {
        self.addresses("ip_local").iter().map(|address| address.local).collect()
    }

    /// Address of http and https.
    #[must_use]
    pub fn rest_bind(&self) -> IpAddr {
        self.addresses("rest_bind").first().expect("rest_bind has a default").local
    }

    /// Trusted UDP sources: address and prefix length.
    #[must_use]
    pub fn sip_trusted(&self) -> &[(IpAddr, u8)] {
        match self.value("sip_trusted") {
            Value::Subnets(subnets) => subnets,
            _ => &[],
        }
    }

    /// Directory of lock, journal and certificates.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        PathBuf::from(self.text("data_dir"))
    }

    /// Socket of the dataplane.
    #[must_use]
    pub fn dataplane_socket(&self) -> PathBuf {
        match self.text("dataplane_socket") {
            "" => self.data_dir().join("dataplane.sock"),
            path => PathBuf::from(path),
        }
    }

    /// A file of the table; `None` when nobody set it.
    ///
    /// # Panics
    /// As [`Config::text`].
    #[must_use]
    pub fn file(&self, key: &str) -> Option<&Path> {
        Some(self.text(key)).filter(|text| !text.is_empty()).map(Path::new)
    }

    /// SIP transaction timers.
    #[must_use]
    pub fn sip_timers(&self) -> Timers {
        let t1 = self.millis("sip_t1_ms");
        let long = |key: &str| match self.value(key) {
            Value::Number(millis) => Duration::from_millis(*millis),
            _ => t1.saturating_mul(64),
        };
        Timers {
            t1,
            t2: self.millis("sip_t2_ms"),
            t4: self.millis("sip_t4_ms"),
            b: long("sip_timer_b_ms"),
            d: long("sip_timer_d_ms"),
            f: long("sip_timer_f_ms"),
            h: long("sip_timer_h_ms"),
            j: long("sip_timer_j_ms"),
            l: long("sip_timer_l_ms"),
            m: long("sip_timer_m_ms"),
        }
    }

    fn bad(&self, key: &str, allowed: &str) -> SettingsError {
        SettingsError::BadValue {
            origin: self.settings.origin(key),
            key: key.to_owned(),
            value: self.settings.get(key).map_or_else(String::new, |setting| setting.value.clone()),
            allowed: allowed.to_owned(),
        }
    }

    fn check_trunks(&self) -> Result<(), SettingsError> {
        for (key, _) in self.settings.iter() {
            if !key.starts_with("trunk.") {
                continue;
            }
            let Some((_, known)) = trunk_key(key) else {
                let names: Vec<&str> = TRUNK_KEYS.iter().map(|key| key.name).collect();
                let allowed = format!("trunk.<name>. with one of {} is allowed", names.join(", "));
                return Err(self.bad(key, &allowed));
            };
            let value = self.settings.get(key).map_or("", |setting| &setting.value);
            let fits = value.is_empty() || known.kind.parse(value).is_some();
            if !fits {
                return Err(self.bad(key, &known.kind.allowed()));
            }
            let is_match = |word: &String| TrunkMatch::parse(word).is_some();
            if known.name == "match" && !self.trunk_list(key).iter().all(is_match) {
                return Err(self.bad(key, "hosts, .domains and address ranges joined by commas are allowed"));
            }
        }
        for name in self.trunk_names() {
            let first =
                || self.settings.iter().map(|(key, _)| key).find(|key| trunk_key(key).is_some_and(|of| of.0 == name));
            if name != DEFAULT_TRUNK && self.trunk_list(&format!("trunk.{name}.match")).is_empty() {
                let allowed =
                    format!("trunk.{name}.match must say whom it is for; only trunk.{DEFAULT_TRUNK} goes without");
                return Err(self.bad(first().unwrap_or(name), &allowed));
            }
            if self.is_udp_only(name) && self.trunk_text(name, "transport") == "tcp" {
                let allowed = format!("trunk.{name}.transport is tcp, beside which only false is allowed");
                return Err(self.bad(&format!("trunk.{name}.udp_only"), &allowed));
            }
        }
        Ok(())
    }

    /// The words of a trunk's list.
    fn trunk_list(&self, key: &str) -> Vec<String> {
        let value = self.settings.get(key).map_or("", |setting| &setting.value);
        match Kind::List.parse(value) {
            Some(Value::List(words)) => words,
            _ => Vec::new(),
        }
    }

    /// Names of the trunks, in order.
    fn trunk_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.settings.iter().filter_map(|(key, _)| Some(trunk_key(key)?.0)).collect();
        names.dedup();
        names
    }

    /// Whether long requests of a trunk keep to UDP.
    fn is_udp_only(&self, name: &str) -> bool {
        self.trunk_text(name, "udp_only").eq_ignore_ascii_case("true")
    }

    /// The value of a trunk's key; empty when nobody set it.
    fn trunk_text(&self, name: &str, key: &str) -> &str {
        self.settings.get(&format!("trunk.{name}.{key}")).map_or("", |setting| &setting.value)
    }

    /// Rules that span several keys.
    fn check_pairs(&self) -> Result<(), SettingsError> {
        if let (Port::Fixed(from), Port::Fixed(to)) = (self.port("media_port_from"), self.port("media_port_to"))
            && (from == 0 || to <= from)
        {
            return Err(self.bad("media_port_to", "a port above media_port_from is allowed"));
        }
        for (one, other) in [("tls.cert", "tls.key"), ("tls.key", "tls.cert")] {
            if self.file(one).is_some() && self.file(other).is_none() {
                return Err(self.bad(other, &format!("{one} is set, so this must name a file too")));
            }
        }
        if self.dataplane_socket().as_os_str().len() > SOCKET_PATH_MAX_BYTES {
            let allowed = "a path of at most 100 bytes is allowed; the default is `data_dir`/dataplane.sock";
            return Err(self.bad("dataplane_socket", allowed));
        }
        Ok(())
    }
}

/// Longest path of a unix socket that all systems take, with room to spare.
const SOCKET_PATH_MAX_BYTES: usize = 100;

/// The name and the row of a `trunk.<name>.<key>`.
fn trunk_key(key: &str) -> Option<(&str, &'static Key)> {
    let (name, sub) = key.strip_prefix("trunk.")?.rsplit_once('.')?;
    let known = TRUNK_KEYS.iter().find(|known| known.name == sub)?;
    (!name.is_empty()).then_some((name, known))
}

fn join((key, value): (String, String)) -> String {
    format!("{key}={value}")
}

fn read(settings: &Settings, key: &Key) -> Result<Value, SettingsError> {
    let default = match (key.default, key.kind) {
        ("", _) => Value::Unset,
        (text, kind) => kind.parse(text).expect("the table's defaults are allowed"),
    };
    let result = settings.read(key.name, default, &key.kind.allowed(), |text| key.kind.parse(text));
    result.map_err(|error| match error {
        SettingsError::BadValue { origin, key: name, allowed, .. } if matches!(key.kind, Kind::Secret(_)) => {
            SettingsError::BadValue { origin, key: name, value: "[redacted]".to_owned(), allowed }
        }
        error => error,
    })
}

/// What `--demo` sets below the file and `--set`: loopback for the demo service first, then every address of the machine, so that
/// a browser on another machine finds a candidate it can reach.
fn demo_settings() -> Vec<(String, String)> {
    let mut addresses: Vec<String> = vec!["127.0.0.1".to_owned()];
    addresses.extend(machine::interface_addresses().iter().filter(|ip| !ip.is_loopback()).map(ToString::to_string));
    vec![("ip".to_owned(), addresses.join(",")), ("sip_port".to_owned(), "auto".to_owned())]
}

#[cfg(test)]
mod tests;
