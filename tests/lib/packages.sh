# Installs what a script needs and a clean Debian lacks. Sourced by tests/clients/run and .ci/run; each function does nothing
# where all is there already, so that they cost nothing on the second run and work offline then.

# need_debian_packages NAME…: with apt, without starting any service and without a question.
need_debian_packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f='${db:Status-Status}\n' "$name" 2>/dev/null | grep -qx installed || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    if ((EUID != 0)); then
        echo "missing Debian packages, and not root to install them: ${missing[*]}" >&2
        return 1
    fi
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # A package's daemon must not start here. Where a policy exists already, it is the machine's own and stays.
    local policy=/usr/sbin/policy-rc.d ours=
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        ours=yes
    fi
    printf 'postfix postfix/main_mailer_type select No configuration\n' | debconf-set-selections 2>/dev/null || true
    local status=0
    apt-get update -qq || status=$?
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || status=$?
    if [[ $ours ]]; then rm -f "$policy"; fi
    return "$status"
}

# need_python_environment DIRECTORY PACKAGE…: a virtual environment with these packages.
need_python_environment() {
    local directory=$1
    shift
    if [[ -e $directory/complete && $(<"$directory/complete") == "$*" ]]; then return 0; fi
    if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then need_debian_packages python3 python3-venv; fi
    rm -rf "$directory"
    python3 -m venv "$directory"
    "$directory/bin/pip" install --quiet --disable-pip-version-check "$@"
    echo "$*" >"$directory/complete"
}

# need_node_package DIRECTORY PACKAGE: one npm package below DIRECTORY/node_modules.
need_node_package() {
    local directory=$1 package=$2
    [[ -e $directory/node_modules/$package/package.json ]] && return 0
    if ! command -v npm >/dev/null; then need_debian_packages nodejs npm; fi
    mkdir -p "$directory"
    npm install --prefix "$directory" --no-audit --no-fund --silent "$package"
}

# need_unpacked_packages DIRECTORY NAME…: Debian packages that cannot be installed beside each other, unpacked below
# DIRECTORY/NAME and not set up.
need_unpacked_packages() {
    local directory=$1 name
    shift
    for name in "$@"; do
        [[ -e $directory/$name/complete ]] && continue
        echo "unpacking $name"
        rm -rf "${directory:?}/$name"
        mkdir -p "$directory/$name"
        (
            cd "$directory/$name"
            apt-get download -qq "$name" 2>/dev/null || { apt-get update -qq && apt-get download -qq "$name"; }
            dpkg -x ./*.deb .
        )
        touch "$directory/$name/complete"
    done
}
