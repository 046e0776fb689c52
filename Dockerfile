# vector-sync in a container: the service, or any command; see docs/container.md.
# It runs as user 10001 on a read-only root: all that it writes is in /data, and in /tmp, which may be a tmpfs.

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

# --- the dependencies: they change seldom, so nothing of the code is here. The environment has no pip of its own ---------------
FROM ${BASE} AS dependencies
ARG EXTRAS=all
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_QUIET=1
RUN python3 -m venv /opt/pip && /opt/pip/bin/pip install "hatchling>=1.26" && python3 -m venv --without-pip /opt/vector-sync
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN set -eu; \
    pip="/opt/pip/bin/pip --python /opt/vector-sync/bin/python"; \
    mkdir connector sinks; touch README.md LICENSE connector/__init__.py sinks/__init__.py; \
    $pip install --constraint constraints.txt ".[$EXTRAS]"; \
    $pip uninstall --yes vector-sync

# --- the code, in a folder of its own, so that it has a layer of its own: some megabytes over hundreds -------------------------
FROM dependencies AS code
COPY README.md LICENSE ./
COPY connector connector
COPY sinks sinks
RUN set -eu; \
    /opt/pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .; \
    /opt/pip/bin/pip --python /opt/vector-sync/bin/python install --no-index --no-deps --no-compile --prefix /code /wheel/*.whl; \
    /opt/vector-sync/bin/python -m compileall -q --invalidation-mode unchecked-hash /code

FROM ${BASE}
COPY --from=sqlite /out/libsqlite3.so.0 /usr/local/lib/
RUN ldconfig && \
    groupadd --gid 10001 vector-sync && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data vector-sync && \
    install -d -o 10001 -g 10001 /data
# Loopback in a container is nobody's; which of its ports are reached from outside is decided where it is run.
ENV PATH=/opt/vector-sync/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    VECTOR_SYNC_CONFIG=/config/vector-sync.toml \
    VECTOR_SYNC_SERVICE__HOST=0.0.0.0
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8090
STOPSIGNAL SIGTERM
# Asks the service. For a command that ends by itself: `docker run --no-healthcheck`.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["vector-sync", "probe", "readyz"]
ENTRYPOINT ["vector-sync"]
CMD ["serve"]
# What changes most often comes last.
COPY --from=dependencies /opt/vector-sync /opt/vector-sync
COPY --from=code /code /opt/vector-sync
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="vector-sync" \
      org.opencontainers.image.description="Keeps a vector index in step with your documents" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
