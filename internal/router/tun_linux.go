package router

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// openTUN makes slow0, down, and returns its one queue. There is no
// IFF_MULTI_QUEUE: every daemon gets a duplicate of this descriptor, so a new
// reader needs no queue of its own, and the interface lives as long as the
// helper does.
func openTUN() (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return -1, fmt.Errorf("open /dev/net/tun: %w; as root, type: chmod 0666 /dev/net/tun", err)
	}
	if err != nil {
		return -1, fmt.Errorf("open /dev/net/tun: %w; as root, type: modprobe tun", err)
	}
	if err := configureTUN(fd); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func configureTUN(fd int) error {
	req, err := unix.NewIfreq(slowName)
	if err != nil {
		return fmt.Errorf("name %s: %w", slowName, err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return fmt.Errorf("make %s: %w", slowName, err)
	}
	dev, err := netlink.LinkByName(slowName)
	if err != nil {
		return fmt.Errorf("find %s: %w", slowName, err)
	}
	if err := netlink.LinkSetMTU(dev, linkMTU); err != nil {
		return fmt.Errorf("set MTU of %s: %w", slowName, err)
	}
	if err := netlink.LinkSetTxQLen(dev, slowQueue); err != nil {
		return fmt.Errorf("set queue length of %s: %w", slowName, err)
	}
	return nil
}
