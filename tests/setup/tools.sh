#!/usr/bin/env bash
# Installs what the tests need and the machine lacks: Debian packages, and programs compiled once into
# the cache under a name that holds their version. With the argument `peers` also what `make bench`
# compares with, with `dist` what `make dist` needs.
set -euo pipefail
cache="${STRONGROOM_CACHE:-$HOME/.cache/strongroom}"
mkdir -p "$cache/bin"

packages=()
need() { command -v "$1" > /dev/null 2>&1 || packages+=("$2"); }
need openssl openssl
need setfattr attr
need fio fio
# The programs of tests/posix/clients, and what pjdfstest is compiled against.
need setfacl acl
need barman barman
need borg borgbackup
need duplicity duplicity
need etcdctl etcd-client
need git git
need gpg gpg
need gpgconf gpgconf
need gpg-agent gpg-agent
need logrotate logrotate
need mariadbd mariadb-server-core
need mariadb-admin mariadb-client
need mariadb-backup mariadb-backup
need pgbackrest pgbackrest
need redis-server redis-server
need restic restic
need rsync rsync
need sqlite3 sqlite3
need zstd zstd
# Servers that do not speak S3: one of FTP from Debian, one of Azure's blobs from npm.
/usr/bin/python3 -c 'import pyftpdlib, OpenSSL' 2> /dev/null || packages+=(python3-pyftpdlib python3-openssl)
need node nodejs
need npm npm
compgen -G '/usr/lib/postgresql/*/bin/initdb' > /dev/null || packages+=(postgresql)
[ -e /usr/include/sys/acl.h ] || packages+=(libacl1-dev)
# A Kubernetes of one node: csi/tests/cluster.
need containerd containerd
need etcd etcd-server
need ip iproute2
need runc runc
[ -e /usr/lib/cni/ptp ] || packages+=(containernetworking-plugins)
[ -e /bin/busybox ] || [ -e /usr/bin/busybox ] || packages+=(busybox-static)
# Others that keep files in buckets, whose files ours reads and which read ours; and the libraries of those that are
# unpacked only (below).
need rclone rclone
have() { ldconfig -p | grep -q "$1" || packages+=("$2"); }
have libfuse.so.2 libfuse2
have libfuse3.so.3 libfuse3-3
have libcurl-gnutls.so.4 libcurl3-gnutls
have libxml2.so.2 libxml2
# What `make dist` puts into the image, and looks at programs with.
if [ "${1:-}" = dist ]; then
    need readelf binutils
    need python3 python3-minimal
    need unshare util-linux
fi
if [ "${#packages[@]}" -gt 0 ]; then
    echo "installing ${packages[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" > /dev/null
fi

# One program of a Go module, pinned. Written beside its place and renamed, so that a run that is cut
# short leaves nothing half done.
go_tool() { # NAME VERSION PACKAGE
    local place="$cache/bin/$1-$2"
    if [ ! -x "$place" ]; then
        echo "compiling $1 $2 (once)"
        local work; work="$(mktemp -d "$cache/go.XXXXXX")"
        GOBIN="$work" GOFLAGS=-trimpath go install -ldflags "-s -w" "$3@$2"
        mv "$work"/* "$place"
        rmdir "$work"
    fi
}
go_tool minio v0.0.0-20260212201848-7aac2a2c5b7c github.com/minio/minio
# Makes users of MinIO, and takes their keys away.
go_tool mc v0.0.0-20250313080218-cf909e1063a9 github.com/minio/mc
go_tool fake-gcs-server v1.56.1 github.com/fsouza/fake-gcs-server
go_tool csi-sanity v5.5.0 github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity
go_tool helm v3.22.0 helm.sh/helm/v3/cmd/helm
go_tool csi-resizer v2.2.0 github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer

# One program of npm, pinned, with what it needs.
npm_tool() { # NAME VERSION
    local place="$cache/$1-$2"
    if [ ! -d "$place" ]; then
        echo "installing $1 $2 (once)"
        local work; work="$(mktemp -d "$cache/npm.XXXXXX")"
        npm install --silent --no-audit --no-fund --prefix "$work" "$1@$2"
        mv "$work" "$place"
    fi
}
npm_tool azurite 3.37.0

# One program of a Go module, pinned, whose own pins `go install` does not take: it is compiled in its own module. Its
# library for S3 is a changed one that no module holds; with Amazon's it lacks nothing but requests that only one vendor's
# storage knows, which no test makes: those are cut out.
geesefs() { # VERSION
    local place="$cache/bin/geesefs-$1"
    if [ ! -x "$place" ]; then
        echo "compiling geesefs $1 (once)"
        local work; work="$(mktemp -d "$cache/go.XXXXXX")"
        local folder; folder="$(cd "$work" && go mod download -json "github.com/yandex-cloud/geesefs@$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')"
        cp -r "$folder/." "$work"
        chmod -R u+w "$work"
        sed -i '/^replace .*aws-sdk-go => /d' "$work/go.mod"
        cat >> "$work/go.sum" <<'SUMS'
github.com/aws/aws-sdk-go v1.55.8 h1:JRmEUbU52aJQZ2AjX4q4Wu7t4uZjOu71uyNmaWlUkJQ=
github.com/aws/aws-sdk-go v1.55.8/go.mod h1:ZkViS9AqA6otK+JBBNH2++sx1sgxrPKcSzPPvQkUtXk=
SUMS
        sed -i -e '/^\tif s.config.ListV1Ext {$/,/^\t}/{/^\t}/!d;s/^\t} else /\t/;t;d}' -e '/i\.UserMetadata,$/d' \
            -e '/^func (s \*S3Backend) PatchBlob(/,/^}/{/^func/!{/^}/!d};s/{$/{\n\treturn nil, syscall.ENOSYS/}' \
            "$work/core/backend_s3.go"
        (cd "$work" && go build -mod=mod -trimpath -ldflags "-s -w" -o "$work/geesefs.new" .)
        mv "$work/geesefs.new" "$place"
        rm -rf "$work"
    fi
}
geesefs v0.43.8

# One file of a Go module, pinned: interfaces that ours are compared with.
go_file() { # NAME VERSION MODULE PATH
    local place="$cache/interfaces/$1-$2"
    if [ ! -e "$place" ]; then
        mkdir -p "$cache/interfaces"
        local folder; folder="$(cd "$cache" && go mod download -json "$3@$2" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')"
        cp "$folder/$4" "$place.new"
        chmod 644 "$place.new"
        mv "$place.new" "$place"
    fi
}
go_file csi.proto v1.12.0 github.com/container-storage-interface/spec csi.proto
go_file pluginregistration.proto v0.34.4 k8s.io/kubelet pkg/apis/pluginregistration/v1/api.proto

# Debian packages that are unpacked, not installed.
unpack() { # NAME PACKAGE...
    local place="$cache/$1-$(. /etc/os-release && echo "$VERSION_CODENAME")"
    if [ ! -d "$place" ]; then
        apt-get update -qq
        local work; work="$(mktemp -d "$cache/unpack.XXXXXX")"
        chmod 755 "$work"
        (cd "$work" && apt-get download -qq "${@:2}" 2> /dev/null)
        local package
        for package in "$work"/*.deb; do dpkg-deb --extract "$package" "$work"; done
        rm "$work"/*.deb
        # Where Debian has /bin and /usr/bin be one.
        if [ -d "$work/bin" ]; then mkdir -p "$work/usr/bin"; mv "$work/bin"/* "$work/usr/bin/"; fi
        mv "$work" "$place"
    fi
}
# Installed, they would serve on ports 80 and 21.
unpack nginx nginx
unpack vsftpd vsftpd libwrap0
# fuse3 is for rclone's fusermount. Installed, it would bring `mount.fuse`, to which mount(8) hands every
# remount of a FUSE file system, ours too, and which takes its source for a program.
unpack peers s3fs fuse3

if [ "${1:-}" = peers ]; then
    # Milliseconds on each round trip: `make bench LATENCY=20`.
    go_tool toxiproxy v2.5.0 github.com/Shopify/toxiproxy/v2/cmd/server
fi

# One program of a module of ours that pins it, where `go install` cannot.
go_module() { # NAME VERSION PACKAGE [FLAGS OF THE LINKER]
    local place="$cache/bin/$1-$2"
    if [ ! -x "$place" ]; then
        echo "compiling $1 $2 (once)"
        local work; work="$(mktemp -d "$cache/go.XXXXXX")"
        (cd "$(dirname "$0")/$1" && go build -mod=readonly -trimpath -ldflags "-s -w ${4:-}" -o "$work/$1" "$3")
        mv "$work/$1" "$place"
        rmdir "$work"
    fi
}

# The same with its library for LZ4 in Go alone: what that has in assembly cannot read anything, its own files neither,
# when Go 1.26 has compiled it.
datasafed() { # VERSION
    local place="$cache/bin/datasafed-$1-go-lz4"
    if [ ! -x "$place" ]; then
        echo "compiling datasafed $1 (once)"
        local work; work="$(mktemp -d "$cache/go.XXXXXX")"
        cp "$(dirname "$0")/datasafed"/* "$work"
        local folder; folder="$(cd "$work" && go mod download -json "github.com/pierrec/lz4@v2.6.1+incompatible" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')"
        cp -r "$folder" "$work/lz4"
        chmod -R u+w "$work/lz4"
        rm "$work"/lz4/decode_amd64.*
        # Its first line says that it is for other machines only.
        sed -i 1d "$work/lz4/decode_other.go"
        echo "module github.com/pierrec/lz4" > "$work/lz4/go.mod"
        (cd "$work" && go mod edit -replace github.com/pierrec/lz4=./lz4 \
            && go build -mod=mod -trimpath -ldflags "-s -w" -o "$work/datasafed.new" github.com/apecloud/datasafed)
        mv "$work/datasafed.new" "$place"
        rm -rf "$work"
    fi
}
datasafed v0.2.0
go_module csi-provisioner v6.3.0 github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner
# Its programs ask each other for their versions, which the linker is told.
about=k8s.io/component-base/version
go_module kube v1.34.4 . "-X $about.gitVersion=v1.34.4 -X $about.gitMajor=1 -X $about.gitMinor=34"

# One program of a crate, pinned with everything that it depends on.
crate_tool() { # NAME VERSION
    local place="$cache/$1-$2"
    if [ ! -x "$place/bin/$1" ]; then
        echo "compiling $1 $2 (once)"
        CARGO_TARGET_DIR="$cache/$1-build" cargo install "$1" --version "$2" --locked --quiet --root "$place"
        rm -rf "$cache/$1-build"
    fi
}
crate_tool cargo-deny 0.20.2
crate_tool pjdfstest 0.2.2
crate_tool fsx 0.3.2
if [ "${1:-}" = dist ]; then crate_tool cargo-cyclonedx 0.5.9; fi
