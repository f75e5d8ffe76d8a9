//go:build tools

// Package datasafed pins the program that tests/datasafed compares ours with: its module cannot be
// installed by version alone, since the proxy has no list of its versions.
package datasafed

import _ "github.com/apecloud/datasafed"
