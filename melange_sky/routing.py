"""The routing policy that gateway and simulator share."""
