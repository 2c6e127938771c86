//go:build !linux

package socket
