# What differs between the systems that the scripts run on. Sourced, not run, in the root.

# Meson's unity files name their parts by whole paths. With this, ccache finds what was compiled from
# the same sources in another folder.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD}

# The folder of an environment's programs.
programs_of() {
    if [ -d "$1/Scripts" ]; then echo "$1/Scripts"; else echo "$1/bin"; fi
}

# The CPU variants of a wheel for this processor's family, separated by commas.
wheel_variants() {
    case "$(uname -m)" in
    x86_64) echo x86-64-v2,x86-64-v3,x86-64-v4,x86-64-v4-vnni ;;
    aarch64 | arm64) echo armv8.0,armv8.2,armv8.6 ;;
    *) echo native ;;
    esac
}

# Install packages with apt-get, quietly; status 1 where there is none, or no right to use it.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
