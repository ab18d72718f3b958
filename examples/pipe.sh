#!/bin/sh
# A tree through a pipe: tar on one side, tar on the other, nothing on the disk between.
#
#     PYTHON=.venv/bin/python sh examples/pipe.sh
#
# Both sides run here and meet on the loopback interface. Between two machines each runs its half.
set -eu

python=${PYTHON:-python3}
export TETHER_LAN_INTERFACES=127.0.0.1
unset TETHER_PASSPHRASE

work=$(mktemp -d)
listener=
trap 'test -z "$listener" || kill "$listener" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir -p "$work/project/src" "$work/arrived"
echo "print('hello')" > "$work/project/src/hello.py"

# One machine.
"$python" -m tether_lite listen --quiet --timeout 60 > "$work/arrived.tar" 2> "$work/said" &
listener=$!

# A person reads the code from that screen.
code=
tries=0
while [ -z "$code" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 300 ] || ! kill -0 "$listener" 2>/dev/null; then
        echo "The listener showed no code:" >&2
        cat "$work/said" >&2
        exit 1
    fi
    sleep 0.1
    code=$(sed -n 's/^Code: //p' "$work/said")
done

# The other machine.
tar -C "$work" -c project | "$python" -m tether_lite connect "$code" --quiet

wait "$listener"
listener=
tar -C "$work/arrived" -xf "$work/arrived.tar"
diff -r "$work/project" "$work/arrived/project"
echo "A tar of project went through a pipe and arrived as it was."
