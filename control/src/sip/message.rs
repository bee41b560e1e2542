//! Requests, responses and their header fields, and how they are printed.
//!
//! Header fields keep the order they came in, unknown ones included. Values are unfolded text. Content-Length is not kept: the
//! parser checks it and printing computes it.

use std::fmt;

use super::uri::Uri;

/// A request method, RFC 3261 section 7.1 and its extensions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// Starts or changes a session.
    Invite,
    /// Confirms a final answer to INVITE.
    Ack,
    /// Ends a session.
    Bye,
    /// Gives up a pending INVITE.
    Cancel,
    /// Binds an address to an account.
    Register,
    /// Asks for capabilities.
    Options,
    /// RFC 6086.
    Info,
    /// RFC 3262.
    Prack,
    /// RFC 3311.
    Update,
    /// RFC 3515.
    Refer,
    /// RFC 6665.
    Subscribe,
    /// RFC 6665.
    Notify,
    /// RFC 3428.
    Message,
    /// RFC 3903.
    Publish,
    /// A method that we do not know; methods are case-sensitive tokens.
    Other(String),
}

const METHODS: [(Method, &str); 14] = [
    (Method::Invite, "INVITE"),
    (Method::Ack, "ACK"),
    (Method::Bye, "BYE"),
    (Method::Cancel, "CANCEL"),
    (Method::Register, "REGISTER"),
    (Method::Options, "OPTIONS"),
    (Method::Info, "INFO"),
    (Method::Prack, "PRACK"),
    (Method::Update, "UPDATE"),
    (Method::Refer, "REFER"),
    (Method::Subscribe, "SUBSCRIBE"),
    (Method::Notify, "NOTIFY"),
    (Method::Message, "MESSAGE"),
    (Method::Publish, "PUBLISH"),
];

impl Method {
    /// Reads a method; `None` when `text` is no token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((method, _)) = METHODS.iter().find(|(_, name)| *name == text) {
            return Some(method.clone());
        }
        super::headers::is_token(text).then(|| Method::Other(text.to_owned()))
    }

    /// The word on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        if let Method::Other(name) = self {
            return name;
        }
        METHODS.iter().find(|(method, _)| method == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a header field. Compact forms are read as the long one, comparison ignores case (RFC 3261 section 7.3.1).
#[derive(Clone, Debug)]
pub enum HeaderName {
    /// A name of the table in this module.
    Known(KnownHeader),
    /// Any other name, as it was written.
    Other(String),
}

macro_rules! known_headers {
    ($($(#[$doc:meta])* $variant:ident = $name:literal $(, $compact:literal)?;)*) => {
        /// The header fields that the core or the gateway looks at.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each variant is the header of that name")]
        pub enum KnownHeader { $($variant),* }

        impl KnownHeader {
            /// The name as it is printed: the long form.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(KnownHeader::$variant => $name),* }
            }

            fn find(text: &str) -> Option<Self> {
                $(if text.eq_ignore_ascii_case($name) $(|| text.eq_ignore_ascii_case($compact))? {
                    return Some(KnownHeader::$variant);
                })*
                None
            }
        }

        impl HeaderName {
            $(
                #[doc = concat!("`", $name, "`")]
                #[allow(non_upper_case_globals, reason = "reads as the enum variant it stands for")]
                pub const $variant: HeaderName = HeaderName::Known(KnownHeader::$variant);
            )*
        }
    };
}

known_headers! {
    Accept = "Accept";
    AcceptEncoding = "Accept-Encoding";
    AcceptLanguage = "Accept-Language";
    AlertInfo = "Alert-Info";
    Allow = "Allow";
    AllowEvents = "Allow-Events", "u";
    AuthenticationInfo = "Authentication-Info";
    Authorization = "Authorization";
    CallId = "Call-ID", "i";
    CallInfo = "Call-Info";
    Contact = "Contact", "m";
    ContentDisposition = "Content-Disposition";
    ContentEncoding = "Content-Encoding", "e";
    ContentLanguage = "Content-Language";
    ContentLength = "Content-Length", "l";
    ContentType = "Content-Type", "c";
    CSeq = "CSeq";
    Date = "Date";
    Diversion = "Diversion";
    ErrorInfo = "Error-Info";
    Event = "Event", "o";
    Expires = "Expires";
    From = "From", "f";
    MaxForwards = "Max-Forwards";
    MimeVersion = "MIME-Version";
    MinExpires = "Min-Expires";
    MinSe = "Min-SE";
    PAssertedIdentity = "P-Asserted-Identity";
    Privacy = "Privacy";
    ProxyAuthenticate = "Proxy-Authenticate";
    ProxyAuthorization = "Proxy-Authorization";
    ProxyRequire = "Proxy-Require";
    RAck = "RAck";
    Reason = "Reason";
    RecordRoute = "Record-Route";
    ReferTo = "Refer-To", "r";
    ReferredBy = "Referred-By", "b";
    Replaces = "Replaces";
    Require = "Require";
    RetryAfter = "Retry-After";
    Route = "Route";
    RSeq = "RSeq";
    Server = "Server";
    SessionExpires = "Session-Expires", "x";
    Subject = "Subject", "s";
    SubscriptionState = "Subscription-State";
    Supported = "Supported", "k";
    Timestamp = "Timestamp";
    To = "To", "t";
    Unsupported = "Unsupported";
    UserAgent = "User-Agent";
    Via = "Via", "v";
    Warning = "Warning";
    WwwAuthenticate = "WWW-Authenticate";
}

impl HeaderName {
    /// Reads a name; compact forms become their long form. `None` when `text` is no token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(known) = KnownHeader::find(text) {
            return Some(HeaderName::Known(known));
        }
        super::headers::is_token(text).then(|| HeaderName::Other(text.to_owned()))
    }

    /// The name as it is printed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            HeaderName::Known(known) => known.as_str(),
            HeaderName::Other(name) => name,
        }
    }
}

impl PartialEq for HeaderName {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (HeaderName::Known(a), HeaderName::Known(b)) => a == b,
            _ => self.as_str().eq_ignore_ascii_case(other.as_str()),
        }
    }
}

impl Eq for HeaderName {}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Header fields in order. Typed readers are in [`super::headers`].
///
/// Via, Route, Record-Route and Contact hold one value per field: the parser splits comma lists of those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(HeaderName, String)>);

impl Headers {
    /// No fields.
    #[must_use]
    pub const fn new() -> Self {
        Headers(Vec::new())
    }

    /// The first value of `name`, unfolded and trimmed.
    #[must_use]
    pub fn value(&self, name: &HeaderName) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Every value of `name`, in order, one per header field.
    pub fn values<'a>(&'a self, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
        let name = name.clone();
        self.0.iter().filter(move |(other, _)| *other == name).map(|(_, value)| value.as_str())
    }

    /// Every field, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&HeaderName, &str)> {
        self.0.iter().map(|(name, value)| (name, value.as_str()))
    }

    /// Appends a field after all others. Control characters in `value` become spaces when it is printed.
    pub fn push(&mut self, name: HeaderName, value: impl Into<String>) {
        self.0.push((name, value.into()));
    }

    /// Puts a field before all others, as a new Via must be.
    pub fn push_front(&mut self, name: HeaderName, value: impl Into<String>) {
        self.0.insert(0, (name, value.into()));
    }

    /// Replaces the first field of `name` in place and drops its others; appends it when there is none.
    pub fn set(&mut self, name: HeaderName, value: impl Into<String>) {
        if let Some(at) = self.0.iter().position(|(other, _)| *other == name) {
            self.0[at].1 = value.into();
            let mut index = 0;
            self.0.retain(|(other, _)| {
                index += 1;
                index - 1 <= at || *other != name
            });
        } else {
            self.push(name, value);
        }
    }

    /// Replaces the value of the first field of `name` only; false when there is none.
    pub fn replace_first(&mut self, name: &HeaderName, value: impl Into<String>) -> bool {
        match self.0.iter_mut().find(|(other, _)| other == name) {
            Some(field) => {
                field.1 = value.into();
                true
            }
            None => false,
        }
    }

    /// Drops every field of `name`; tells how many there were.
    pub fn remove(&mut self, name: &HeaderName) -> usize {
        let before = self.0.len();
        self.0.retain(|(other, _)| other != name);
        before - self.0.len()
    }

    /// Appends every field of `other`.
    pub fn extend(&mut self, other: Headers) {
        self.0.extend(other.0);
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub method: Method,
    /// Of whom: the Request-URI.
    pub uri: Uri,
    /// All header fields but Content-Length.
    pub headers: Headers,
    /// The body, empty when there is none. Its type is the Content-Type header.
    pub body: Vec<u8>,
}

impl Request {
    /// A request without headers or body.
    #[must_use]
    pub const fn new(method: Method, uri: Uri) -> Self {
        Request { method, uri, headers: Headers::new(), body: Vec::new() }
    }

    /// The bytes for the wire, Content-Length included.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        print(&format!("{} {} SIP/2.0", self.method, self.uri), &self.headers, &self.body)
    }
}

/// A status code, 100 to 699 (RFC 3261 section 7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(u16);

impl Status {
    /// The status `code`; `None` outside 100..=699.
    #[must_use]
    pub const fn new(code: u16) -> Option<Self> {
        if code >= 100 && code <= 699 { Some(Status(code)) } else { None }
    }

    /// For codes written in our own source.
    ///
    /// # Panics
    /// When `code` is outside 100..=699.
    #[must_use]
    pub const fn literal(code: u16) -> Self {
        assert!(code >= 100 && code <= 699, "a SIP status is 100 to 699");
        Status(code)
    }

    /// The number.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0
    }

    /// 1xx.
    #[must_use]
    pub const fn is_provisional(self) -> bool {
        self.0 < 200
    }

    /// 2xx.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 >= 200 && self.0 < 300
    }

    /// 200 and above.
    #[must_use]
    pub const fn is_final(self) -> bool {
        self.0 >= 200
    }

    /// The reason phrase of RFC 3261 section 21, or that of the class for codes it does not name.
    #[must_use]
    pub const fn default_reason(self) -> &'static str {
        match self.0 {
            100 => "Trying",
            180 => "Ringing",
            181 => "Call Is Being Forwarded",
            182 => "Queued",
            183 => "Session Progress",
            200 => "OK",
            202 => "Accepted",
            300 => "Multiple Choices",
            301 => "Moved Permanently",
            302 => "Moved Temporarily",
            305 => "Use Proxy",
            380 => "Alternative Service",
            400 => "Bad Request",
            401 => "Unauthorized",
            402 => "Payment Required",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            406 => "Not Acceptable",
            407 => "Proxy Authentication Required",
            408 => "Request Timeout",
            410 => "Gone",
            413 => "Request Entity Too Large",
            414 => "Request-URI Too Long",
            415 => "Unsupported Media Type",
            416 => "Unsupported URI Scheme",
            420 => "Bad Extension",
            421 => "Extension Required",
            422 => "Session Interval Too Small",
            423 => "Interval Too Brief",
            480 => "Temporarily Unavailable",
            481 => "Call/Transaction Does Not Exist",
            482 => "Loop Detected",
            483 => "Too Many Hops",
            484 => "Address Incomplete",
            485 => "Ambiguous",
            486 => "Busy Here",
            487 => "Request Terminated",
            488 => "Not Acceptable Here",
            491 => "Request Pending",
            493 => "Undecipherable",
            500 => "Server Internal Error",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Server Time-out",
            505 => "Version Not Supported",
            513 => "Message Too Large",
            600 => "Busy Everywhere",
            603 => "Decline",
            604 => "Does Not Exist Anywhere",
            606 => "Not Acceptable",
            _ => match self.0 / 100 {
                1 => "Progress",
                2 => "Success",
                3 => "Redirection",
                4 => "Request Failure",
                5 => "Server Failure",
                _ => "Global Failure",
            },
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The outcome.
    pub status: Status,
    /// The reason phrase: for people only.
    pub reason: String,
    /// All header fields but Content-Length.
    pub headers: Headers,
    /// The body, empty when there is none.
    pub body: Vec<u8>,
}

impl Response {
    /// A response without headers or body, with the default reason phrase.
    #[must_use]
    pub fn new(status: Status) -> Self {
        Response { status, reason: status.default_reason().to_owned(), headers: Headers::new(), body: Vec::new() }
    }

    /// The bytes for the wire, Content-Length included.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        print(&format!("SIP/2.0 {} {}", self.status, self.reason), &self.headers, &self.body)
    }
}

/// What arrives on a SIP transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A request.
    Request(Request),
    /// A response.
    Response(Response),
}

impl Message {
    /// The header fields.
    #[must_use]
    pub const fn headers(&self) -> &Headers {
        match self {
            Message::Request(request) => &request.headers,
            Message::Response(response) => &response.headers,
        }
    }

    /// The bytes for the wire, Content-Length included.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Message::Request(request) => request.to_bytes(),
            Message::Response(response) => response.to_bytes(),
        }
    }
}

fn print(start_line: &str, headers: &Headers, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(512 + body.len());
    push_clean(&mut out, start_line);
    out.extend_from_slice(b"\r\n");
    for (name, value) in headers.iter() {
        push_clean(&mut out, name.as_str());
        out.extend_from_slice(b": ");
        push_clean(&mut out, value);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    out.extend_from_slice(body);
    out
}

/// The last line of defence against header injection: whatever a value holds, no control character leaves the program.
fn push_clean(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().map(|byte| if byte < 0x20 || byte == 0x7f { b' ' } else { byte }));
}
