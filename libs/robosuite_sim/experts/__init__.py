"""What scripted experts with a parallel gripper share: geometry, grasps from above, motions, the hand's state."""
