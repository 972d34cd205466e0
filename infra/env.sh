# shellcheck shell=bash
# Sourced by infra/setup and infra/run: the versions of the tools that Berth runs on, where they are kept, and PATH.

node_version=24.21.0
temporal_version=1.5.1

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export BERTH_CACHE=${BERTH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/berth}
node_home=$BERTH_CACHE/node/$node_version
temporal_home=$BERTH_CACHE/temporal/$temporal_version

# The last assignment has precedence: what setup fetched comes before the machine's own tools. Adds the sbin folders,
# which a login may lack, and Go's usual folder, which no profile names.
PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin
for folder in "$node_home/bin" "$temporal_home/bin"; do
  [[ -d $folder ]] && PATH=$folder:$PATH
done
export PATH
