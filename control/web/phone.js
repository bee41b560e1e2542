// Gangway's phone page: one account, one call at a time, on top of the vendor's SDK.
"use strict";

(() => {
  const $ = (id) => document.getElementById(id);
  const show = (id, shown) => { $(id).hidden = !shown; };
  const SESSION = () => Flashphoner.constants.SESSION_STATUS;
  const CALL = () => Flashphoner.constants.CALL_STATUS;

  let session = null;      // the SDK's session, null when not connected
  let isOurEnd = false;    // whether the session is being ended by this page
  let call = null;         // the SDK's call, null when idle
  let dialled = "";        // what the user typed for the current call; empty for an incoming one
  let isOwnHangup = false; // whether the user ended the call: no problem to explain
  let answeredAt = 0;      // when the call was answered, ms; 0 while it rings
  let ticker = 0;          // interval of the call timer
  const ends = new Map();  // callId -> why it ended, from the gateway's own words

  // ---- what went wrong, in words -------------------------------------------------------------------------------------

  function showProblem(title, advice, link) {
    $("problem-title").textContent = title;
    $("problem-advice").textContent = advice || "";
    show("problem-link", Boolean(link));
    if (link) {
      $("problem-link").href = link;
      $("problem-link").textContent = link;
    }
    show("problem", true);
  }

  const clearProblem = () => show("problem", false);

  /** What a failed or unwanted end of a call means, by SIP status or by the gateway's text. Null for an ordinary end. */
  function explainEnd(end) {
    const who = dialled || "The other side";
    const byStatus = {
      403: [`${who} may not be called`, "The exchange refused the call. Ask its operator whether this account may dial that number."],
      404: [`No such number: ${dialled}`, "Check the number and dial again."],
      408: [`${who} did not answer`, "Nothing answered in time. Check the number, or that the SIP domain is reachable."],
      480: [`${who} is not available`, "The phone is not registered or did not answer. Try again later."],
      484: [`The number ${dialled} is not complete`, "Check the number and dial again."],
      486: [`${who} is busy`, "Try again in a moment."],
      600: [`${who} is busy`, "Try again in a moment."],
      488: ["No common audio format", "The other side speaks none of the audio formats of this browser."],
      603: [`${who} declined the call`, ""],
      401: ["The call was refused: wrong password", "Check login and password, then connect again."],
      407: ["The call was refused: wrong password", "Check login and password, then connect again."],
    };
    if (byStatus[end.sipStatus]) return byStatus[end.sipStatus];
    const info = String(end.info || "");
    if (/ICE|DTLS/i.test(info)) {
      return ["The sound could not be connected", "A firewall may block UDP between this browser and the gateway. " + info + "."];
    }
    if (/RTP/i.test(info)) return ["The call was ended: no sound arrived any more", info + "."];
    if (/codec|transcod/i.test(info)) return ["No common audio format", info + "."];
    if (/timeout/i.test(info)) return [`${who} did not answer`, "Check the number, or that the SIP domain is reachable."];
    if (end.status === "FAILED") {
      const detail = [info, end.sipStatus ? `SIP ${end.sipStatus}` : ""].filter(Boolean).join(", ");
      return ["The call failed", detail ? detail + "." : "The gateway gave no reason."];
    }
    return null;
  }

  /** What a failed session means. `fail` is the gateway's last word before it closed, if any. */
  function explainSession(fail) {
    const info = String((fail && fail.info) || "");
    if (/AUTHENTICATION_FAIL/.test(info)) return ["Wrong login or password", "The SIP server refused them. Correct them and connect again."];
    if (/REGISTER_EXPIRE|CONNECTION_ERROR|REQUEST_TIMEOUT|timeout/i.test(info)) {
      return ["The SIP server does not answer", "Check SIP domain and port, and that this gateway can reach them."];
    }
    return ["The gateway refused the connection", info || "It gave no reason."];
  }

  function explainMicrophone(message) {
    if (/denied|NotAllowed|permission/i.test(message)) {
      return ["No permission to use the microphone", "Allow the microphone for this page in the browser's address bar, then call again."];
    }
    if (/not found|NotFound|Requested device/i.test(message)) return ["No microphone was found", "Plug one in, then call again."];
    if (/in use|NotReadable|start audio source/i.test(message)) {
      return ["The microphone cannot be used", "Another program may hold it. Close that program, then call again."];
    }
    return ["The call could not be started", message || "The browser gave no reason."];
  }

  // The SDK tells a page that a call ended, not why: sipStatus and info are in the frame alone. So it is read here too.
  window.WebSocket = class extends window.WebSocket {
    constructor(...args) {
      super(...args);
      this.addEventListener("message", (event) => {
        let frame;
        try { frame = JSON.parse(event.data); } catch { return; }
        const end = frame && Array.isArray(frame.data) && frame.data[0];
        if (frame.message === "finish" && end && end.callId) ends.set(end.callId, end);
      });
    }
  };

  // ---- session -------------------------------------------------------------------------------------------------------

  const STATES = {
    off: ["off", "Not connected", "Connect"],
    connecting: ["wait", "Connecting", "Cancel"],
    registering: ["wait", "Registering", "Cancel"],
    connected: ["on", "Connected", "Disconnect"],
    registered: ["on", "Registered", "Disconnect"],
    failed: ["bad", "Not connected", "Connect"],
  };
  const canCall = () => $("session-status").dataset.name === "registered" || $("session-status").dataset.name === "connected";

  function setSession(name) {
    const [state, label, action] = STATES[name];
    const login = $("login").value;
    $("session-status").dataset.name = name;
    $("session-status").dataset.state = state;
    document.body.dataset.session = state;
    $("session-status").textContent = state === "on" ? `${label} as ${login}` : label;
    $("connect").textContent = action;
    $("connect").classList.toggle("go", action === "Connect");
    for (const field of document.querySelectorAll("#account input")) field.disabled = action !== "Connect";
    refreshDial();
    if (canCall() && !call) $("number").focus();
  }

  function refreshDial() {
    const ready = canCall() && !call;
    $("number").disabled = !ready;
    $("dial-button").disabled = !ready;
    for (const chip of $("numbers").children) chip.disabled = !ready;
  }

  function connect() {
    clearProblem();
    const mustRegister = $("register").checked;
    let lastFail = null;
    isOurEnd = false;
    setSession("connecting");
    const login = $("login").value.trim();
    const url = $("url").value.trim();
    const sipOptions = {
      login,
      authenticationName: $("auth-name").value.trim() || login,
      password: $("password").value,
      domain: $("domain").value.trim(),
      outboundProxy: $("proxy").value.trim() || $("domain").value.trim(),
      port: $("port").value.trim(),
      registerRequired: mustRegister,
    };
    const ended = (status) => {
      session = null;
      // The SDK leaves calls as they were when the socket goes; the gateway has ended them.
      if (call) endCall({ status: "FINISH" });
      setSession(isOurEnd ? "off" : "failed");
      if (isOurEnd) return;
      if (lastFail) showProblem(...explainSession(lastFail));
      else if (status === SESSION().FAILED) showUnreachable(url);
      else showProblem("The connection to the gateway was lost", "Connect again. If that fails, the gateway may be restarting.");
    };
    session = Flashphoner.createSession({ urlServer: url, sipOptions })
      .on(SESSION().ESTABLISHED, () => setSession(mustRegister ? "registering" : "connected"))
      .on(SESSION().REGISTERED, () => setSession("registered"))
      .on(SESSION().WARN, (fail) => { lastFail = fail; warned(fail); })
      .on(SESSION().DISCONNECTED, () => ended(SESSION().DISCONNECTED))
      .on(SESSION().FAILED, () => ended(SESSION().FAILED))
      .on(SESSION().INCOMING_CALL, onIncoming);
  }

  /** A `fail` that does not end the session, such as a registration that was lost later. */
  function warned(fail) {
    if (fail && fail.status === "UNREGISTERED") {
      setSession("connected");
      showProblem("The registration was lost", "Calls to this page may not arrive. Disconnect and connect again.");
    }
  }

  function showUnreachable(url) {
    if (url.startsWith("wss:")) {
      showProblem("The gateway cannot be reached", "If its certificate is self-signed, open this address once and accept it:", url.replace(/^wss:/, "https:"));
    } else {
      showProblem("The gateway cannot be reached", `Nothing answers at ${url}. Check that it runs, and the address under More.`);
    }
  }

  function disconnect() {
    isOurEnd = true;
    if (call) hangup();
    if (session) session.disconnect();
  }

  // ---- calls ---------------------------------------------------------------------------------------------------------

  function watch(newCall) {
    return newCall
      .on(CALL().TRYING, () => setCallStatus("Calling"))
      .on(CALL().RING, () => setCallStatus(newCall === call && answeredAt === 0 ? "Ringing" : ""))
      .on(CALL().RING_MEDIA, () => setCallStatus("Ringing"))
      .on(CALL().SESSION_PROGRESS, () => setCallStatus("Ringing"))
      .on(CALL().ESTABLISHED, onEstablished)
      .on(CALL().FINISH, (ended) => onCallEnd(ended, "FINISH"))
      .on(CALL().FAILED, (ended) => onCallEnd(ended, "FAILED"))
      .on(CALL().BUSY, (ended) => onCallEnd(ended, "FINISH"));
  }

  function dial(number) {
    clearProblem();
    dialled = number;
    $("last-call").textContent = "";
    call = watch(session.createCall({
      callee: number,
      visibleName: $("login").value,
      constraints: { audio: true, video: false },
      localVideoDisplay: $("local-media"),
      remoteVideoDisplay: $("remote-media"),
    }));
    openCall(number, "Starting");
    call.call();
  }

  function onIncoming(incoming) {
    if (call) {
      // One call at a time: whoever comes second hears busy.
      incoming.on(CALL().RING, () => incoming.hangup());
      return;
    }
    clearProblem();
    call = watch(incoming);
    dialled = "";
    $("incoming-name").textContent = incoming.visibleName() || incoming.caller();
    show("incoming", true);
    show("dial", false);
    document.title = "Incoming call - Gangway Phone";
    $("answer").focus();
    refreshDial();
  }

  function answer() {
    const name = $("incoming-name").textContent;
    openCall(name, "Connecting");
    call.answer({
      constraints: { audio: true, video: false },
      localVideoDisplay: $("local-media"),
      remoteVideoDisplay: $("remote-media"),
    });
  }

  function openCall(name, status) {
    answeredAt = 0;
    show("incoming", false);
    show("dial", false);
    show("call", true);
    show("call-timer", false);
    $("call-name").textContent = name;
    $("mute").disabled = true;
    $("mute").setAttribute("aria-pressed", "false");
    $("hangup").disabled = false;
    document.title = `${name} - Gangway Phone`;
    setCallStatus(status);
    $("hangup").focus();
    refreshDial();
  }

  const setCallStatus = (text) => { if (text) $("call-status").textContent = text; };

  function onEstablished() {
    setCallStatus("In call");
    if (answeredAt) return;
    answeredAt = performance.now();
    $("mute").disabled = false;
    show("call-timer", true);
    tick();
    ticker = setInterval(tick, 500);
  }

  function clock(seconds) {
    const two = (number) => String(number).padStart(2, "0");
    const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
    return hours ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
  }

  const talked = () => Math.floor((performance.now() - answeredAt) / 1000);
  const tick = () => { $("call-timer").textContent = clock(talked()); };

  function onCallEnd(ended, status) {
    if (ended !== call) return;
    const end = ends.get(ended.id()) || { status };
    const local = status === "FAILED" && !ends.has(ended.id()) ? ended.getErrorInfo() : null;
    ends.clear();
    if (local) showProblem(...explainMicrophone(local));
    endCall(end);
  }

  function endCall(end) {
    clearInterval(ticker);
    const name = $("call-name").textContent || $("incoming-name").textContent;
    $("last-call").textContent = answeredAt ? `Call with ${name} ended after ${clock(talked())}.` : "";
    // A call that was answered and ends is ordinary, whatever its status says, unless it failed.
    const isUnwanted = !isOwnHangup && (end.status === "FAILED" || (!answeredAt && dialled));
    const problem = isUnwanted && explainEnd(end);
    if (problem && $("problem").hidden) showProblem(...problem);
    call = null;
    answeredAt = 0;
    isOwnHangup = false;
    show("call", false);
    show("incoming", false);
    show("dial", true);
    document.title = "Gangway Phone";
    refreshDial();
    if (canCall()) $("number").focus();
  }

  function toggleMute() {
    const muted = $("mute").getAttribute("aria-pressed") !== "true";
    if (muted) call.muteAudio(); else call.unmuteAudio();
    $("mute").setAttribute("aria-pressed", String(muted));
    setCallStatus(muted ? "In call, your microphone is off" : "In call");
  }

  function hangup() {
    $("hangup").disabled = true;
    setCallStatus("Hanging up");
    isOwnHangup = true;
    call.hangup();
  }

  // ---- start ---------------------------------------------------------------------------------------------------------

  /** The gateway's address from where this page was loaded, when it is not told otherwise. */
  function defaultUrl(demo) {
    const secure = location.protocol === "https:";
    const told = demo && (secure ? demo.wss : demo.ws);
    if (!told) return secure ? `wss://${location.hostname}:8443` : `ws://${location.hostname}:8080`;
    // A gateway that listens everywhere cannot know under which name this browser reaches it.
    const url = new URL(told);
    url.hostname = location.hostname;
    return url.href.replace(/\/$/, "");
  }

  function fillIn(demo) {
    $("url").value = defaultUrl(demo);
    $("domain").value = (demo && demo.sipDomain) || location.hostname;
    $("port").value = (demo && demo.sipPort) || 5060;
    if (!demo) return;
    $("login").value = demo.login || "";
    $("password").value = demo.password || "";
    const numbers = { 600: "echo", 601: "voice menu", 602: "busy", 603: "rings on", 604: "no such number", 605: "early media" };
    for (const [number, what] of Object.entries(numbers)) {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.append(Object.assign(document.createElement("b"), { textContent: number }), what);
      chip.addEventListener("click", () => { $("number").value = number; dial(number); });
      $("numbers").append(chip);
    }
    show("numbers", true);
    $("number").value = "600";
    $("footer").textContent = "Demo: connect, call 600 and hear yourself. The microphone is used during calls only.";
    refreshDial();
  }

  async function start() {
    setSession("off");
    if (typeof Flashphoner === "undefined") {
      showProblem("The phone could not be loaded", "The gateway does not serve the SDK at /client2/. Run ./run, or npm ci in its folder, and reload.");
      $("connect").disabled = true;
      return;
    }
    if (!window.isSecureContext || !navigator.mediaDevices) {
      showProblem(
        "This page may not use the microphone here",
        "Browsers allow it on http://localhost and on https only. Open the page there; the gateway prints both addresses at its start.",
      );
    }
    try {
      Flashphoner.init();
    } catch {
      showProblem("This browser cannot make calls", "It has no WebRTC. Use a current Chrome, Edge, Firefox or Safari.");
      $("connect").disabled = true;
      return;
    }
    let demo = null;
    try {
      const answer = await fetch("demo.json", { cache: "no-store" });
      if (answer.status === 200) demo = await answer.json();
    } catch { /* no demo: the fields stay empty */ }
    fillIn(demo);
    (demo ? $("connect") : $("login")).focus();
  }

  $("account").addEventListener("submit", (event) => {
    event.preventDefault();
    if (session) disconnect(); else connect();
  });
  $("dial").addEventListener("submit", (event) => {
    event.preventDefault();
    const number = $("number").value.trim();
    if (number && canCall() && !call) dial(number);
  });
  $("answer").addEventListener("click", answer);
  $("reject").addEventListener("click", () => {
    if (!call) return;
    isOwnHangup = true;
    call.hangup();
  });
  $("hangup").addEventListener("click", () => call && hangup());
  $("mute").addEventListener("click", () => call && toggleMute());
  $("problem-close").addEventListener("click", clearProblem);
  start();
})();
