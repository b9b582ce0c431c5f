# shellcheck shell=bash
# What the workers of a TPU VM are told to do: each function prints the text of a command. tpu_vm.sh reads this file.

SESSION=mae_jax MOUNT=/mnt/bucket

# Its arguments as one line that any shell reads back: each in single quotes where it needs any.
quote() {
  local word out=''
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    out+="${out:+ }$word"
  done
  printf '%s' "$out"
}

# Ends a command where a run is under way: nothing may be changed below it.
free_text() {
  echo "if tmux has-session -t =$SESSION 2>/dev/null; then echo 'a run is under way; stop it first' >&2; exit 3; fi"
}

# The checkout that was copied there, and its requirements. A fresh machine upgrades itself, and holds apt's lock meanwhile.
install_text() {
  free_text
  cat <<'TEXT'
set -e; rm -rf ~/mae_jax; mkdir -p ~/mae_jax; tar xzf ~/mae_jax.tar.gz -C ~/mae_jax
command -v tmux >/dev/null || { sudo apt-get -o DPkg::Lock::Timeout=600 update -q && sudo apt-get -o DPkg::Lock::Timeout=600 install -y -q tmux; }
python=$(command -v python3.12 || command -v python3.11 || true)
[ -n "$python" ] || { sudo apt-get -o DPkg::Lock::Timeout=600 update -q && sudo apt-get -o DPkg::Lock::Timeout=600 install -y -q python3.11 python3.11-venv; }
python=${python:-python3.11}
[ -x ~/mae_jax_venv/bin/pip ] || "$python" -m venv ~/mae_jax_venv
~/mae_jax_venv/bin/pip install -q -e ~/mae_jax"[tpu]"
TEXT
}

# The bucket $1 at $MOUNT. A checkpoint is committed by renaming its directory, of which gcsfuse by itself moves none in a
# bucket without a hierarchical namespace.
mount_text() {
  cat <<TEXT
set -e
if mountpoint -q $MOUNT; then
  there=\$(findmnt -n -o SOURCE -M $MOUNT)
  [ "\$there" != $(quote "$1") ] || exit 0
  echo "$MOUNT holds \$there, and --bucket is $1: stop the run and fusermount -u $MOUNT first, or name that one" >&2
  exit 4
fi
command -v gcsfuse >/dev/null || { . /etc/os-release
key=/usr/share/keyrings/gcsfuse.asc from=https://packages.cloud.google.com/apt
curl -fsS \$from/doc/apt-key.gpg | sudo tee \$key >/dev/null
echo "deb [signed-by=\$key] \$from gcsfuse-\$VERSION_CODENAME main" |
  sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
sudo apt-get -o DPkg::Lock::Timeout=600 update -q && sudo apt-get -o DPkg::Lock::Timeout=600 install -y -q gcsfuse; }
sudo mkdir -p $MOUNT && sudo chown "\$(id -un)" $MOUNT &&
  gcsfuse --implicit-dirs --rename-dir-limit=200000 $(quote "$1") $MOUNT
TEXT
}

# What tmux runs: a command, again where that helps, $1 times at most, and its last status in a file.
loop_text() {
  local restarts=$1
  shift
  cat <<TEXT
cd ~/mae_jax && . ~/mae_jax_venv/bin/activate || exit 1
run=~/mae_jax_run starts=0
while :; do
  $(quote "$@") >>\$run/log 2>&1 &
  echo \$! >\$run/pid
  [ ! -e \$run/stop ] || kill -TERM \$! 2>/dev/null # stop came before it had this pid
  wait \$(cat \$run/pid) && status=0 || status=\$?
  case \$status in
    $RESTART | $INTERRUPTED | 13[4-9]) ;;
    *) break ;;
  esac
  [ ! -e \$run/stop ] && [ \$starts -lt $restarts ] || break
  starts=\$((starts + 1))
  echo "ended with status \$status: the same command resumes, start \$((starts + 1))" | tee -a \$run/log
  sleep 5
  [ ! -e \$run/stop ] || break
done
echo \$status >\$run/status.new && mv \$run/status.new \$run/status
TEXT
}

# Start a command ($3 ...) inside tmux, with $1 restarts; its --workdir is $2.
start_text() {
  local script mounted=: restarts=$1
  [[ $2 != "$MOUNT"/* ]] || mounted="mountpoint -q $MOUNT || {
  echo '$MOUNT is not mounted: install with --bucket' >&2
  exit 4
}"
  shift 2
  script=$(loop_text "$restarts" "$@")
  cat <<TEXT
set -e
$(free_text)
$mounted
mkdir -p ~/mae_jax_run; rm -f ~/mae_jax_run/stop ~/mae_jax_run/status
printf '%s\\n' $(quote "$script") >~/mae_jax_run/run.sh
tmux new-session -d -s $SESSION 'bash ~/mae_jax_run/run.sh'
TEXT
}

# The last status of the run, "running", or "none", behind a word by which it is told from what else is printed. The
# session may end between two looks at the file.
look_text() {
  cat <<TEXT
status=~/mae_jax_run/status
if [ ! -e \$status ] && tmux has-session -t =$SESSION 2>/dev/null; then echo mae_jax_run=running
elif [ -e \$status ]; then echo "mae_jax_run=\$(cat \$status)"; else echo mae_jax_run=none; fi
TEXT
}

stop_text() {
  cat <<TEXT
cd ~/mae_jax_run 2>/dev/null || exit 0; touch stop; [ ! -e pid ] || kill -TERM "\$(cat pid)" 2>/dev/null || :
for i in \$(seq 600); do tmux has-session -t =$SESSION 2>/dev/null || exit 0; sleep 1; done
echo "it still runs after 600 s" >&2; exit 1
TEXT
}
