# Any command of vector-sync in a container; see docs/container.md. Runs as user 10001 on a read-only root: all it writes is in /data.

ARG BASE=python:3.11-slim-bookworm

# --- SQLite without the WAL-reset bug of 3.7.0 to 3.51.2 (sqlite.org/wal.html#walresetbug); Debian 12 has 3.40 ---------------
FROM ${BASE} AS sqlite
RUN set -eu; \
    mirror=$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1); \
    [ -n "$mirror" ] || mirror=$(sed -n 's/^deb *\([^ ]*\).*/\1/p' /etc/apt/sources.list | head -n 1); \
    echo "deb-src [check-valid-until=no signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror forky main" > /etc/apt/sources.list.d/sqlite.list; \
    apt-get update -q; \
    apt-get install -q -y --no-install-recommends gcc libc6-dev make dpkg-dev
WORKDIR /build
RUN set -eu; \
    apt-get source -q sqlite3/forky; \
    cd sqlite3-3*/; \
    CFLAGS="-O2 -DSQLITE_ENABLE_COLUMN_METADATA -DSQLITE_ENABLE_FTS5 -DSQLITE_ENABLE_RTREE" \
        ./configure --prefix=/usr/local --disable-static --soname=legacy --disable-readline --disable-tcl; \
    make -j2 libsqlite3.so; \
    install -D -m 644 libsqlite3.so /out/libsqlite3.so.0

# --- the environment: what is pinned changes seldom, so it has a layer before the code -----------------------------------------
FROM ${BASE} AS environment
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/vector-sync
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN set -eu; \
    mkdir connector sinks; touch connector/__init__.py sinks/__init__.py; \
    /opt/vector-sync/bin/pip install --quiet --constraint constraints.txt '.[all]'; \
    /opt/vector-sync/bin/pip uninstall --quiet --yes vector-sync
COPY connector connector
COPY sinks sinks
RUN /opt/vector-sync/bin/pip install --quiet --no-deps . && /opt/vector-sync/bin/python -m compileall -q /opt/vector-sync

FROM ${BASE}
COPY --from=sqlite /out/libsqlite3.so.0 /usr/local/lib/
RUN ldconfig && \
    groupadd --gid 10001 vector-sync && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data vector-sync && \
    install -d -o 10001 -g 10001 /data
COPY --from=environment /opt/vector-sync /opt/vector-sync
ENV PATH=/opt/vector-sync/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /data
VOLUME /data
ENTRYPOINT ["vector-sync", "--config", "/config/vector-sync.toml"]
CMD ["sync"]
