# Shared by ./run and ./test: what this machine must have. Sourced, from the repository's root. Quiet, asks nothing, and
# is quick when everything is already there.

say() { printf '[gangway] %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null 2>&1; then sudo -n "$@"
  else return 1
  fi
}

# apt_install PACKAGE...: installs from the distribution without a question; fails when that is not possible.
apt_install() {
  command -v apt-get >/dev/null 2>&1 || return 1
  say "installing: $*"
  local log
  log=$(mktemp)
  if as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1 </dev/null ||
     { as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >"$log" 2>&1 </dev/null &&
       as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1 </dev/null; }
  then rm -f "$log"; return 0; fi
  tail -n 5 "$log" >&2
  rm -f "$log"
  return 1
}

# missing_packages COMMAND:PACKAGE...: the packages whose command is not found, one a line. What begins with a slash is no command
# but a file, or a pattern of files.
missing_packages() {
  local pair
  for pair in "$@"; do
    case $pair in
      /*) compgen -G "${pair%%:*}" >/dev/null || echo "${pair#*:}" ;;
      *) PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null 2>&1 || echo "${pair#*:}" ;;
    esac
  done
}

# need_tools COMMAND:PACKAGE...: without these nothing can be built.
need_tools() {
  local packages
  mapfile -t packages < <(missing_packages "$@")
  [ ${#packages[@]} = 0 ] || apt_install "${packages[@]}" || die "please install: ${packages[*]}"
}

# A compiler that links: Debian's gcc alone brings no C library to link with.
need_compiler() {
  links() { echo 'int main(void) { return 0; }' | cc -x c -o /dev/null - >/dev/null 2>&1; }
  links || { apt_install gcc libc6-dev && links; } || die "please install a C compiler: gcc libc6-dev"
}

need_cargo() {
  if ! command -v cargo >/dev/null 2>&1 && [ -r "$HOME/.cargo/env" ]; then . "$HOME/.cargo/env"; fi
  command -v cargo >/dev/null 2>&1 || die "cargo was not found: install Rust first (rust-toolchain.toml names the version)"
}

# The npm packages are pinned by package-lock.json; npm ci runs only when what is installed is older than the lock.
install_npm() {
  if [ ! -e node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    say "installing the npm packages"
    npm ci --no-progress --loglevel=error </dev/null >&2 || die "npm ci failed"
    touch node_modules/.package-lock.json
  fi
}
