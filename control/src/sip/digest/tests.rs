use gangway_shared::entropy::SeededEntropy;

use super::*;
use crate::sip::{
    message::{Headers, Status},
    uri::Uri,
};

const TARGET: &str = "192.0.2.1:5060";

fn client() -> Client {
    let password = Secret::new("pass\"word".to_owned());
    Client::new(Account { username: "al\"ice".into(), password, targets: vec![TARGET.parse().unwrap()] })
}

fn request(method: Method) -> Request {
    Request::new(method, "sip:registrar.example.com".parse::<Uri>().unwrap())
}

fn challenge(status: u16, fields: &[&str]) -> Response {
    let mut response = Response::new(Status::literal(status));
    let name = if status == 401 { HeaderName::WwwAuthenticate } else { HeaderName::ProxyAuthenticate };
    for field in fields {
        response.headers.push(name.clone(), *field);
    }
    response
}

struct Exchange {
    client: Client,
    entropy: SeededEntropy,
}

impl Exchange {
    fn new() -> Self {
        Exchange { client: client(), entropy: SeededEntropy::new(1) }
    }

    fn answer(
        &mut self,
        attempts: &mut Attempts,
        request: &Request,
        response: &Response,
    ) -> Result<AuthParams, DigestError> {
        let target = TARGET.parse().unwrap();
        let mut answers = self.client.answer(attempts, request, response, target, &mut self.entropy)?;
        assert_eq!(answers.len(), 1);
        let (name, value) = answers.remove(0);
        let mut headers = Headers::new();
        headers.push(name.clone(), value);
        Ok(headers.auth(&name).remove(0))
    }
}

fn vector(algorithm: Algorithm, realm: &str, nonce: &str) -> Challenge {
    Challenge {
        realm: realm.into(),
        nonce: nonce.into(),
        opaque: None,
        algorithm,
        algorithm_name: None,
        qop_auth: true,
        stale: false,
    }
}

fn mufasa(password: &str) -> Account {
    Account { username: "Mufasa".into(), password: Secret::new(password.to_owned()), targets: vec![] }
}

#[test]
fn rfc2617_section_3_5_vector() {
    let challenge = vector(Algorithm::Md5, "testrealm@host.com", "dcd98b7102dd2f0e8b11d0f600bfb0c093");
    let fresh = (1, "0a4f113b".to_owned());
    let response = response_digest(&challenge, &mufasa("Circle Of Life"), "GET", "/dir/index.html", Some(&fresh));
    assert_eq!(response, "6629fae49393a05397450978507c4ef1");
}

#[test]
fn rfc2069_response_without_qop() {
    // The example of RFC 2069 section 2.4 with the value of its erratum.
    let challenge = vector(Algorithm::Md5, "testrealm@host.com", "dcd98b7102dd2f0e8b11d0f600bfb0c093");
    let response = response_digest(&challenge, &mufasa("CircleOfLife"), "GET", "/dir/index.html", None);
    assert_eq!(response, "1949323746fe6a43ef61f9606e7febea");
}

#[test]
fn rfc7616_section_3_9_1_vectors() {
    let nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
    let fresh = (1, "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ".to_owned());
    for (algorithm, response) in [
        (Algorithm::Md5, "8ca523f5e9506fed4657c9700eebdbec"),
        (Algorithm::Sha256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ] {
        let challenge = vector(algorithm, "http-auth@example.org", nonce);
        let got = response_digest(&challenge, &mufasa("Circle of Life"), "GET", "/dir/index.html", Some(&fresh));
        assert_eq!(got, response);
    }
}

#[test]
fn credentials_are_quoted_exactly() {
    let mut exchange = Exchange::new();
    let challenge =
        challenge(401, &["Digest realm=\"r\\\"1\\\"\", nonce=\"n\\\\x\", opaque=\"\", qop=\"auth\", algorithm=md5"]);
    let target = TARGET.parse().unwrap();
    let answers = exchange
        .client
        .answer(&mut Attempts::default(), &request(Method::Register), &challenge, target, &mut exchange.entropy)
        .unwrap();
    let (name, value) = &answers[0];
    assert_eq!(*name, HeaderName::Authorization);
    let head = "Digest username=\"al\\\"ice\", realm=\"r\\\"1\\\"\", nonce=\"n\\\\x\", uri=\"sip:registrar.example.com\", cnonce=\"";
    assert!(value.starts_with(head), "{value}");
    assert!(value.contains("\", opaque=\"\", response=\""), "{value}");
    assert!(value.ends_with("\", algorithm=md5, qop=auth, nc=00000001"), "{value}");
}

#[test]
fn without_qop_and_algorithm_neither_is_sent() {
    let answer = Exchange::new()
        .answer(
            &mut Attempts::default(),
            &request(Method::Register),
            &challenge(401, &["Digest realm=\"r\", nonce=\"n\""]),
        )
        .unwrap();
    for absent in ["qop", "nc", "cnonce", "algorithm", "opaque"] {
        assert!(!answer.params.contains(absent), "{absent}");
    }
}

#[test]
fn the_strongest_supported_challenge_is_taken() {
    let md5 = "Digest realm=\"r\", nonce=\"m\", algorithm=MD5, qop=\"auth\"";
    let sha = "Digest realm=\"r\", nonce=\"s\", algorithm=SHA-256, qop=\"auth\"";
    let other = "Digest realm=\"r\", nonce=\"o\", algorithm=SHA-512-256, qop=\"auth\"";
    let int = "Digest realm=\"r\", nonce=\"i\", algorithm=SHA-256, qop=\"auth-int\"";
    let one_field = format!("{md5}, {sha}");
    for fields in [&[md5, sha, other, int][..], &[other, sha, md5], &[&one_field], &["NTLM", "Basic realm=\"r\"", sha]]
    {
        let answer =
            Exchange::new().answer(&mut Attempts::default(), &request(Method::Register), &challenge(401, fields));
        assert_eq!(answer.unwrap().params.value("nonce"), Some("s"), "{fields:?}");
    }
    let answer =
        Exchange::new().answer(&mut Attempts::default(), &request(Method::Register), &challenge(407, &[other, md5]));
    assert_eq!(answer.unwrap().params.value("nonce"), Some("m"));
}

#[test]
fn what_cannot_be_answered_says_why() {
    let ask = |fields: &[&str]| {
        Exchange::new()
            .answer(&mut Attempts::default(), &request(Method::Register), &challenge(401, fields))
            .unwrap_err()
    };
    assert_eq!(ask(&[]), DigestError::NoChallenge);
    assert_eq!(ask(&["Basic realm=\"r\""]), DigestError::NoChallenge);
    assert_eq!(ask(&["Digest realm=\"r\""]), DigestError::NoChallenge);
    assert_eq!(ask(&["Digest realm=\"r\", nonce=\"n\", qop=\"auth-int\""]), DigestError::Unsupported);
    assert_eq!(ask(&["Digest realm=\"r\", nonce=\"n\", algorithm=MD5-sess"]), DigestError::Unsupported);
    let long = format!("Digest realm=\"r\", nonce=\"{}\"", "n".repeat(MAX_CHALLENGE_BYTES));
    assert_eq!(ask(&[&long]), DigestError::NoChallenge);
}

#[test]
fn a_challenge_from_elsewhere_is_never_answered() {
    let mut exchange = Exchange::new();
    let challenge = challenge(401, &["Digest realm=\"r\", nonce=\"n\""]);
    for elsewhere in ["192.0.2.1:5061", "192.0.2.2:5060", "[::ffff:192.0.2.1]:5060"] {
        let elsewhere = elsewhere.parse().unwrap();
        let request = request(Method::Bye);
        let answer =
            exchange.client.answer(&mut Attempts::default(), &request, &challenge, elsewhere, &mut exchange.entropy);
        assert_eq!(answer, Err(DigestError::ForeignPeer));
        assert_eq!(exchange.client.preempt(&request, elsewhere, &mut exchange.entropy), []);
    }
}

#[test]
fn the_realm_is_pinned_and_changes_only_on_register() {
    let mut exchange = Exchange::new();
    let realm = |realm: &str| challenge(401, &[&format!("Digest realm=\"{realm}\", nonce=\"n-{realm}\"")]);
    exchange.answer(&mut Attempts::default(), &request(Method::Register), &realm("home")).unwrap();
    for method in [Method::Invite, Method::Bye] {
        let answer = exchange.answer(&mut Attempts::default(), &request(method), &realm("evil"));
        assert_eq!(answer, Err(DigestError::RealmChanged));
    }
    // Among several the pinned one is found.
    let both = challenge(
        401,
        &["Digest realm=\"evil\", nonce=\"e\", algorithm=SHA-256", "Digest realm=\"home\", nonce=\"h\""],
    );
    let answer = exchange.answer(&mut Attempts::default(), &request(Method::Invite), &both).unwrap();
    assert_eq!(answer.params.value("realm"), Some("home"));
    let answer = exchange.answer(&mut Attempts::default(), &request(Method::Register), &realm("moved")).unwrap();
    assert_eq!(answer.params.value("realm"), Some("moved"));
    let answer = exchange.answer(&mut Attempts::default(), &request(Method::Invite), &realm("home"));
    assert_eq!(answer, Err(DigestError::RealmChanged));
}

#[test]
fn a_nonce_is_used_again_with_its_count_for_methods_that_were_challenged() {
    let mut exchange = Exchange::new();
    let challenge = challenge(401, &["Digest realm=\"r\", nonce=\"n\", qop=\"auth\""]);
    let target = TARGET.parse().unwrap();
    assert_eq!(exchange.client.preempt(&request(Method::Register), target, &mut exchange.entropy), []);
    let first = exchange.answer(&mut Attempts::default(), &request(Method::Register), &challenge).unwrap();
    assert_eq!(first.params.value("nc"), Some("00000001"));
    let again = exchange.client.preempt(&request(Method::Register), target, &mut exchange.entropy);
    assert!(again[0].1.contains("nc=00000002") && again[0].1.contains("nonce=\"n\""), "{again:?}");
    assert!(!again[0].1.contains(first.params.value("cnonce").unwrap()), "a cnonce is used once");
    assert_eq!(exchange.client.preempt(&request(Method::Invite), target, &mut exchange.entropy), []);
}

#[test]
fn stale_is_retried_once_with_the_new_nonce() {
    let mut exchange = Exchange::new();
    let mut attempts = Attempts::default();
    let fresh =
        |nonce: &str, stale: &str| challenge(401, &[&format!("Digest realm=\"r\", nonce=\"{nonce}\", stale={stale}")]);
    let with = |answer: &AuthParams| {
        let mut request = request(Method::Register);
        let nonce = answer.params.value("nonce").unwrap();
        request.headers.push(HeaderName::Authorization, format!("Digest realm=\"r\", nonce=\"{nonce}\""));
        request
    };
    let first = exchange.answer(&mut attempts, &request(Method::Register), &fresh("1", "false")).unwrap();
    let second = exchange.answer(&mut attempts, &with(&first), &fresh("2", "TRUE")).unwrap();
    assert_eq!(second.params.value("nonce"), Some("2"));
    assert_eq!(exchange.answer(&mut attempts, &with(&second), &fresh("3", "true")), Err(DigestError::Refused));
    let target = TARGET.parse().unwrap();
    assert_eq!(
        exchange.client.preempt(&with(&second), target, &mut exchange.entropy),
        [],
        "a refused nonce is forgotten"
    );
}

#[test]
fn the_same_nonce_again_or_a_new_one_without_stale_is_a_refusal() {
    for (nonce, stale) in [("1", "false"), ("1", "true"), ("2", "false")] {
        let mut exchange = Exchange::new();
        let mut attempts = Attempts::default();
        let first = challenge(401, &["Digest realm=\"r\", nonce=\"1\""]);
        exchange.answer(&mut attempts, &request(Method::Register), &first).unwrap();
        let mut sent = request(Method::Register);
        sent.headers.push(HeaderName::Authorization, "Digest realm=\"r\", nonce=\"1\"");
        let again = challenge(401, &[&format!("Digest realm=\"r\", nonce=\"{nonce}\", stale={stale}")]);
        assert_eq!(exchange.answer(&mut attempts, &sent, &again), Err(DigestError::Refused), "{nonce} {stale}");
    }
}

#[test]
fn credentials_sent_unasked_may_be_refused_once_with_a_new_nonce() {
    let mut exchange = Exchange::new();
    let mut sent = request(Method::Register);
    sent.headers.push(HeaderName::Authorization, "Digest realm=\"r\", nonce=\"old\"");
    let challenge = challenge(401, &["Digest realm=\"r\", nonce=\"new\""]);
    let answer = exchange.answer(&mut Attempts::default(), &sent, &challenge).unwrap();
    assert_eq!(answer.params.value("nonce"), Some("new"));
}

#[test]
fn server_and_proxy_are_answered_side_by_side() {
    let mut exchange = Exchange::new();
    let mut both = challenge(407, &["Digest realm=\"p\", nonce=\"1\""]);
    both.headers.push(HeaderName::WwwAuthenticate, "Digest realm=\"s\", nonce=\"2\"");
    let target = TARGET.parse().unwrap();
    let answers = exchange
        .client
        .answer(&mut Attempts::default(), &request(Method::Invite), &both, target, &mut exchange.entropy)
        .unwrap();
    let names: Vec<&HeaderName> = answers.iter().map(|(name, _)| name).collect();
    assert_eq!(names, [&HeaderName::Authorization, &HeaderName::ProxyAuthorization]);
}

#[test]
fn a_new_password_forgets_the_old_realm() {
    let mut exchange = Exchange::new();
    let at_home = challenge(401, &["Digest realm=\"home\", nonce=\"n\""]);
    exchange.answer(&mut Attempts::default(), &request(Method::Invite), &at_home).unwrap();
    let mut account = exchange.client.account().clone();
    account.targets.push("192.0.2.7:5060".parse().unwrap());
    exchange.client.replace_account(account.clone());
    let away = challenge(401, &["Digest realm=\"away\", nonce=\"n\""]);
    let refused = exchange.answer(&mut Attempts::default(), &request(Method::Invite), &away);
    assert_eq!(refused, Err(DigestError::RealmChanged));
    account.password = Secret::new("other".to_owned());
    exchange.client.replace_account(account);
    exchange.answer(&mut Attempts::default(), &request(Method::Invite), &away).unwrap();
}
