# The one image of Lifeboat: agent and controller, the command lifeboat, and what the agent puts on its node. `make build`
# comes before it: it puts the static binaries into build/bin. CRIU comes from Debian and is gathered with its own loader and
# libraries, to run from /opt/lifeboat on hosts with any C library.
FROM docker.io/library/debian:forky-slim

# A mirror may lag behind the Valid-Until of a testing release; the signatures are checked all the same.
RUN apt-get -o Acquire::Check-Valid-Until=false update \
	&& DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends ca-certificates criu patchelf util-linux \
	&& rm -rf /var/lib/apt/lists/*

COPY restore/runtime/install/gather-criu.sh /usr/lib/lifeboat/gather-criu.sh
RUN /usr/lib/lifeboat/gather-criu.sh /usr/lib/lifeboat /opt/lifeboat

COPY build/bin/lifeboat-runtime /usr/lib/lifeboat/bin/lifeboat-runtime
COPY build/bin/lifeboat build/bin/lifeboat-agent build/bin/lifeboat-controller /usr/bin/

ENTRYPOINT ["/usr/bin/lifeboat-agent"]
