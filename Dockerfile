# One image for both roles: `python -m ingress` and `python -m forwarder`.
FROM python:3.13-slim AS build
WORKDIR /build
# Without pip: what is shipped is filled from outside, by wheels whose hashes are locked.
RUN python -m venv --without-pip /venv
COPY requirements.lock ./
RUN pip --python /venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r requirements.lock
COPY ingress /app/ingress
COPY forwarder /app/forwarder
COPY shared /app/shared
# The root file system is read-only when it runs.
RUN python -m compileall -q --invalidation-mode unchecked-hash /app

# The trial's image: the same, with the stand-in API and what that runs on.
FROM build AS build-demo
COPY requirements-demo.lock ./
RUN pip --python /venv/bin/python install --no-cache-dir --require-hashes --only-binary :all: -r requirements-demo.lock
COPY sandbox /app/sandbox
RUN python -m compileall -q --invalidation-mode unchecked-hash /app/sandbox

FROM python:3.13-slim AS base
RUN useradd --system --uid 10001 --no-create-home relay && pip uninstall --yes --root-user-action ignore pip
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LOG_FORMAT=json HEALTH_PORT=8080
WORKDIR /app
USER 10001
EXPOSE 465 587

FROM base AS demo
COPY --from=build-demo /venv /venv
COPY --from=build-demo /app /app

FROM base AS relay
COPY --from=build /venv /venv
COPY --from=build /app /app
HEALTHCHECK --interval=15s --timeout=10s --start-period=20s CMD ["python", "-m", "shared.healthcheck"]
CMD ["python", "-m", "ingress"]
