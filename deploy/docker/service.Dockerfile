# The image of any one service; the service is an argument, so images cannot drift apart.
#
#   docker build --build-arg SERVICE=router --file deploy/docker/service.Dockerfile --tag setpoint/router .
#
# Stages: `python` (what all share), `build`, `dev` (code replaceable in place, for Tilt) and, last
# and so by default, `runtime`.

# By tag, so that a rebuild takes security fixes; a release replaces the tag by the digest it was
# tested with (--build-arg PYTHON_IMAGE=python@sha256:…).
ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE} AS python
# Byte code is written at build time, since the root file system is read-only at run time. With
# logs unbuffered, the last line before a crash gets out.
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONFAULTHANDLER=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1


FROM python AS build
WORKDIR /source
# Two environments: what builds the members' wheels stays out of what runs.
RUN python -m venv /opt/build && python -m venv --without-pip /opt/setpoint
COPY deploy/docker/requirements/build.txt deploy/docker/requirements/build.txt
RUN /opt/build/bin/pip install --require-hashes --requirement deploy/docker/requirements/build.txt
# Packages change less often than code; their layer is kept while this file stays the same.
ARG SERVICE
COPY deploy/docker/requirements/${SERVICE}.txt deploy/docker/requirements/
RUN /opt/build/bin/pip --python /opt/setpoint/bin/python install --require-hashes \
        --only-binary :all: --no-compile --requirement "deploy/docker/requirements/${SERVICE}.txt"
COPY deploy/docker/requirements/${SERVICE}.members.txt deploy/docker/requirements/
COPY libs libs
COPY services/${SERVICE} services/${SERVICE}
# The members' own dependencies are in the hashed file already, hence --no-deps; the second
# command reads nothing but the wheels made by the first.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels \
        --requirement "deploy/docker/requirements/${SERVICE}.members.txt" \
    && /opt/build/bin/pip --python /opt/setpoint/bin/python install --no-deps --no-index \
        --no-compile /wheels/*.whl \
    && /opt/setpoint/bin/python -m compileall -q /opt/setpoint/lib \
    && /opt/setpoint/bin/python -c "import setpoint_${SERVICE}.wiring"


FROM python AS service
# A number, because Kubernetes can tell only of a number that it is not root.
RUN groupadd --gid 10001 setpoint \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin setpoint
COPY --from=build /opt/setpoint /opt/setpoint
ARG SERVICE
ENV PATH=/opt/setpoint/bin:$PATH \
    SERVICE=${SERVICE}
# The services write to mounted folders and /tmp alone.
WORKDIR /tmp
USER 10001:10001
# A shell fills in the service's name and then becomes Python, which thus gets the signals.
ENTRYPOINT ["/bin/sh", "-c", "exec python -m \"setpoint_${SERVICE}\""]


FROM service AS dev
# Live updates run as the service's user and write over the installed members.
USER 0:0
RUN chown -R 10001:10001 /opt/setpoint/lib/python*/site-packages/setpoint*
COPY --chmod=0755 deploy/docker/reload.sh /usr/local/bin/setpoint-reload
USER 10001:10001
ENTRYPOINT ["/usr/local/bin/setpoint-reload", "run"]


FROM service AS runtime
