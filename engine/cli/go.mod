module github.com/portolan-net/portolan/engine/cli

go 1.26.0
