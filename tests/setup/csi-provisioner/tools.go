//go:build tools

// Package provisioner pins the sidecar that the tests on a real cluster run beside the controller: its
// module cannot be installed by version alone, since the proxy has no list of its versions.
package provisioner

import _ "github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner"
