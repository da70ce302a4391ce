#!/bin/sh
# Installs the Debian packages that the set-up needs and that are missing, or says which ones they are.
#   need.sh venv PYTHON   a Python that can make virtual environments, or stop
#   need.sh test          PostgreSQL with pgTAP and plpgsql_check, isolationtester, Spin, PgBouncer, pg_cron, libfaketime,
#                         Chromium and its driver; without one of them its tests are skipped, not failed
set -u

apt_install() {
    if ! command -v apt-get >/dev/null; then
        return 1
    elif [ "$(id -u)" = 0 ]; then
        as=env
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        as=sudo
    else
        return 1
    fi
    echo "installing with apt: $*" >&2
    export DEBIAN_FRONTEND=noninteractive
    { [ -n "$(find /var/lib/apt/lists -name '*_Packages*' 2>/dev/null | head -n 1)" ] || $as apt-get -q update; } \
        && $as apt-get -q -y install --no-install-recommends "$@"
} >&2

case ${1-} in
venv)
    python=${2-}
    if [ -z "$python" ]; then
        apt_install python3 python3-venv
        python=python3
    fi
    if ! "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        apt_install python3-venv
    fi
    if ! "$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "missing: Python 3.11 or newer with venv (Debian: apt-get install python3-venv; else GD_PYTHON=...)" >&2
        exit 1
    fi
    ;;
test)
    share=$("${PG_CONFIG:-pg_config}" --sharedir 2>/dev/null) || share=
    for tool in pgtap plpgsql_check; do
        [ -n "$share" ] && [ -f "$share/extension/$tool.control" ] || missing="${missing-}$tool "
    done
    command -v pg_prove >/dev/null || missing="${missing-}pg_prove "
    if [ -n "${missing-}" ]; then
        # The release's own version, unless a PostgreSQL is here already.
        number=$("${PG_CONFIG:-pg_config}" --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')
        if [ -z "$number" ] && command -v apt-cache >/dev/null; then
            number=$(apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p')
        fi
        number=${number:-15}
        set -- "postgresql-$number" "postgresql-$number-pgtap" "postgresql-$number-plpgsql-check" \
            libtap-parser-sourcehandler-pgtap-perl
        apt_install "$@" || echo "missing: $missing(Debian: apt-get install $*); their tests are skipped" >&2
    fi
    # Each by itself: what one machine cannot have must not keep the others away.
    number=$("${PG_CONFIG:-pg_config}" --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')
    tester=$("${PG_CONFIG:-pg_config}" --pkglibdir 2>/dev/null)/pgxs/src/test/isolation/isolationtester
    [ -x "$tester" ] || apt_install "postgresql-server-dev-${number:-15}" \
        || echo "missing: isolationtester (Debian: apt-get install postgresql-server-dev-${number:-15})" >&2
    [ -f "$share/extension/pg_cron.control" ] || apt_install "postgresql-${number:-15}-cron" \
        || echo "missing: pg_cron (Debian: apt-get install postgresql-${number:-15}-cron); its tests are skipped" >&2
    for package in spin gcc pgbouncer faketime prometheus; do
        command -v "$package" >/dev/null || [ -x "/usr/sbin/$package" ] || apt_install "$package" \
            || echo "missing: $package (Debian: apt-get install $package); its tests are skipped" >&2
    done
    # What make deb needs.
    for package in build-essential debhelper postgresql-server-dev-all lintian; do
        [ -d "/usr/share/doc/$package" ] || apt_install "$package" \
            || echo "missing: $package (Debian: apt-get install $package); tests of the packages are skipped" >&2
    done
    if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
        apt_install chromium chromium-driver \
            || echo "missing: chromium (Debian: apt-get install chromium chromium-driver); its tests are skipped" >&2
    fi
    ;;
*)
    echo "usage: need.sh venv PYTHON | test" >&2
    exit 2
    ;;
esac
exit 0
